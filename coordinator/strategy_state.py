"""What a Flower strategy has learnt (FedAdam's moments, FedAvgM's momentum), as bytes to read back.

Flower's strategies cannot be saved as such. Their state is plain: attributes that hold an `ArrayRecord`, a
dictionary of arrays or a list of arrays. Those are written as safetensors; everything else comes from the
strategy's arguments.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

_RECORD, _DICT, _LIST = "record", "dict", "list"
_SEPARATOR = "|"


def save_state(strategy: object) -> bytes:
    """The arrays that a strategy holds, as safetensors; each is named `kind|attribute|key`."""
    tensors: dict[str, NDArray[Any]] = {}
    for name, value in vars(strategy).items():
        kind, arrays = _arrays(value)
        for key, array in arrays.items():
            tensors[_SEPARATOR.join((kind, name, key))] = np.asarray(array, order="C")
    return save(tensors)


def restore_state(strategy: object, state: bytes) -> None:
    """Gives a fresh strategy the arrays that `save_state` wrote."""
    from flwr.app import Array, ArrayRecord

    found: dict[tuple[str, str], dict[str, NDArray[Any]]] = {}
    for path, array in load(state).items():
        kind, name, key = path.split(_SEPARATOR, 2)
        found.setdefault((kind, name), {})[key] = array
    for (kind, name), arrays in found.items():
        if kind == _RECORD:
            ordered = sorted(arrays.items(), key=lambda item: int(item[0].split(_SEPARATOR, 1)[0]))
            value: object = ArrayRecord({key.split(_SEPARATOR, 1)[1]: Array(a) for key, a in ordered})
        elif kind == _LIST:
            value = [arrays[str(index)] for index in range(len(arrays))]
        else:
            value = arrays
        setattr(strategy, name, value)


def _arrays(value: object) -> tuple[str, dict[str, NDArray[Any]]]:
    from flwr.app import ArrayRecord

    if isinstance(value, ArrayRecord):
        # The order of an ArrayRecord counts: strategies zip its values.
        items = enumerate(value.items())
        return _RECORD, {f"{index}{_SEPARATOR}{key}": array.numpy() for index, (key, array) in items}
    if isinstance(value, dict) and value and all(isinstance(a, np.ndarray) for a in value.values()):
        return _DICT, value
    if isinstance(value, list) and value and all(isinstance(a, np.ndarray) for a in value):
        return _LIST, {str(index): array for index, array in enumerate(value)}
    return "", {}
