"""What a Flower strategy has learnt (FedAdam's moments, FedAvgM's momentum), as bytes to read back.

Flower's strategies cannot be saved as such. Their state is plain: attributes that hold an `ArrayRecord`, a
dictionary of arrays or a list of arrays, the clipping norm that adaptive differential privacy moves, and the
same of a strategy inside. Those are written as safetensors; everything else comes from the arguments.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

_RECORD, _DICT, _LIST, _NUMBER = "record", "dict", "list", "number"
_SEPARATOR = "|"
_LEARNT_NUMBERS = ("clipping_norm",)
_INSIDE = "strategy"


def save_state(strategy: object) -> bytes:
    """What a strategy holds, as safetensors; each tensor is named `kind|attribute|key`."""
    return save(_tensors(strategy))


def _tensors(strategy: object) -> dict[str, NDArray[Any]]:
    tensors: dict[str, NDArray[Any]] = {}
    for name, value in vars(strategy).items():
        if name == _INSIDE:
            inside = _tensors(value)
            tensors |= {f"{_INSIDE}{_SEPARATOR}{path}": array for path, array in inside.items()}
        elif name in _LEARNT_NUMBERS:
            tensors[_SEPARATOR.join((_NUMBER, name, ""))] = np.array([value], np.float64)
        kind, arrays = _arrays(value)
        for key, array in arrays.items():
            tensors[_SEPARATOR.join((kind, name, key))] = np.asarray(array, order="C")
    return tensors


def restore_state(strategy: object, state: bytes) -> None:
    """Gives a fresh strategy what `save_state` wrote."""
    _restore(strategy, load(state))


def _restore(strategy: object, tensors: dict[str, NDArray[Any]]) -> None:
    from flwr.app import Array, ArrayRecord

    inside = f"{_INSIDE}{_SEPARATOR}"
    if hasattr(strategy, _INSIDE):
        within = {path.removeprefix(inside): a for path, a in tensors.items() if path.startswith(inside)}
        _restore(getattr(strategy, _INSIDE), within)
    found: dict[tuple[str, str], dict[str, NDArray[Any]]] = {}
    for path, array in tensors.items():
        if path.startswith(inside):
            continue
        kind, name, key = path.split(_SEPARATOR, 2)
        found.setdefault((kind, name), {})[key] = array
    for (kind, name), arrays in found.items():
        if kind == _RECORD:
            ordered = sorted(arrays.items(), key=lambda item: int(item[0].split(_SEPARATOR, 1)[0]))
            value: object = ArrayRecord({key.split(_SEPARATOR, 1)[1]: Array(a) for key, a in ordered})
        elif kind == _NUMBER:
            value = float(arrays[""][0])
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
