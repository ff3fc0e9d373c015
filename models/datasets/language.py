"""The Python language reference, a topic per device: the text that ships with Python itself."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ... import errors
from .dataset import Dataset
from .federation import DeviceData, Federation

CENTRAL_TOPICS = 4
DEVICE_TOPICS = 8
TRAINING_SHARE = 0.8
SHORTEST_TOPIC = 6000
LONGEST_TOPIC = 24_000
UNKNOWN = "?"

_WORD = re.compile(r"[a-z]+|[0-9]+|[^\sa-z0-9]")


def topics() -> dict[str, str]:
    """The long topics of the language reference in lower case, cut at 24,000 letters."""
    from pydoc_data import topics as reference

    texts = {name: " ".join(text.lower().split()) for name, text in reference.topics.items()}
    long = [name for name, text in texts.items() if len(text) >= SHORTEST_TOPIC]
    return {name: texts[name][:LONGEST_TOPIC] for name in sorted(long, key=lambda name: -len(texts[name]))}


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokens a model knows; number 0 stands for every other.

    Attributes:
        tokens: The token of each number.
    """

    tokens: tuple[str, ...]

    @classmethod
    def of(cls, tokens: list[str], size: int) -> Vocabulary:
        """The most frequent tokens, at most `size` with the one for the unknown."""
        frequent = sorted(Counter(tokens).items(), key=lambda item: (-item[1], item[0]))[: size - 1]
        return cls((UNKNOWN, *(token for token, _ in frequent)))

    def encode(self, tokens: list[str]) -> npt.NDArray[np.int32]:
        """int32 [len(tokens)]."""
        numbers = {token: number for number, token in enumerate(self.tokens)}
        return np.array([numbers.get(token, 0) for token in tokens], np.int32)


def federate_words(
    *, devices: int | None = None, seed: int = 0, steps: int, size: int, next_only: bool = False
) -> Federation:
    """Windows of words and the word that follows each; see `_federate`."""
    return _federate(_WORD.findall, devices, seed, steps=steps, size=size, next_only=next_only)


def federate_letters(*, devices: int | None = None, seed: int = 0, steps: int, size: int) -> Federation:
    """Windows of letters and the letter that follows each; see `_federate`."""
    return _federate(list, devices, seed, steps=steps, size=size, next_only=False)


def _federate(
    tokenize: object, devices: int | None, seed: int, *, steps: int, size: int, next_only: bool
) -> Federation:
    """Four topics train centrally, each of eight others is a device, and the end of each is held out.

    The vocabulary is that of the central topics, so that no device tells which words it knows.
    """
    assert callable(tokenize)
    wanted = DEVICE_TOPICS if devices is None else devices
    texts = topics()
    if not 1 <= wanted <= len(texts) - CENTRAL_TOPICS:
        raise errors.UsageError(
            f"Expected 1 to {len(texts) - CENTRAL_TOPICS} devices, one for each topic, received {wanted}."
        )
    names = list(np.random.default_rng(seed).permutation(list(texts)))
    center, others = names[:CENTRAL_TOPICS], names[CENTRAL_TOPICS : CENTRAL_TOPICS + wanted]
    tokens = {name: tokenize(texts[name]) for name in names[: CENTRAL_TOPICS + DEVICE_TOPICS]}
    tokens |= {name: tokenize(texts[name]) for name in others}
    vocabulary = Vocabulary.of([token for name in center for token in tokens[name]], size)

    def windows(some: list[str], *, held_out: bool) -> Dataset:
        parts, owners = [], []
        for name in some:
            cut = round(len(tokens[name]) * TRAINING_SHARE)
            numbers = vocabulary.encode(tokens[name][cut:] if held_out else tokens[name][:cut])
            # Every token is an answer once: windows of many answers do not overlap.
            starts = range(0, len(numbers) - steps, 1 if next_only else steps)
            parts += [numbers[start : start + steps + 1] for start in starts]
            owners += [names.index(name)] * len(starts)
        rows = np.stack(parts)
        y = rows[:, -1] if next_only else rows[:, 1:]
        return Dataset(rows[:, :-1].copy(), y.copy(), vocabulary.tokens, np.array(owners))

    central = windows(center, held_out=False)
    test = windows(sorted(tokens, key=names.index), held_out=True)
    random = np.random.default_rng(seed)
    return Federation(
        central=central,
        calibration=central.take(random.choice(len(central), min(200, len(central)), replace=False)),
        test=test.take(np.sort(random.choice(len(test), min(600, len(test)), replace=False))),
        devices=tuple(
            DeviceData(f"topic-{name}", windows([name], held_out=False), windows([name], held_out=True))
            for name in others
        ),
        preprocessing=f"{steps} tokens, each its number among the {len(vocabulary.tokens)} of the vocabulary",
    )
