"""Lines, pages, videos and captioned scenes, each composed from real handwritten digits.

Every function takes digits and a seed and composes as many examples as asked for from those digits alone, so
that held-out digits stay held out: `federate_digits().map(...)` deals a composed task out.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .dataset import Dataset

Images = npt.NDArray[np.float32]

SIZE = 14
"""Height and width of a composed digit: MNIST's, halved."""

LINE_LENGTHS = (3, 6)
LINE_SHAPE = (16, 96)
PAGE = 40
VIDEO = (16, 20)
SCENE = 32
INK = 0.3

DIRECTIONS = ("up", "down", "left", "right")
PLACES = (("upper", "left"), ("upper", "right"), ("lower", "left"), ("lower", "right"))
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CAPTION_STEPS = 12
CAPTION_WORDS = ("<end>", "<start>", "and", "upper", "lower", "left", "right", *WORDS)

_STEPS = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}


def lines(digits: Dataset, seed: int, *, count: int | None = None) -> Dataset:
    """Lines of 3 to 6 digits with uneven gaps, float32 [N, 16, 96, 1], and what they say, int32 [N, 6].

    Digit d has the label d + 1; 0 fills the row and is the blank of `losses.CTC`.
    """
    random, small = np.random.default_rng(seed), halved(digits.x)
    count = len(digits) if count is None else count
    x = np.zeros((count, *LINE_SHAPE, 1), np.float32)
    y = np.zeros((count, LINE_LENGTHS[1]), np.int32)
    for row in range(count):
        length = int(random.integers(LINE_LENGTHS[0], LINE_LENGTHS[1] + 1))
        chosen = random.integers(0, len(digits), length)
        left = int(random.integers(0, 4))
        for place, one in enumerate(chosen):
            top = int(random.integers(0, LINE_SHAPE[0] - SIZE + 1))
            x[row, top : top + SIZE, left : left + SIZE, 0] += small[one]
            y[row, place] = digits.y[one] + 1
            left += SIZE + int(random.integers(-1, 2))
    return Dataset(np.minimum(x, 1), y, ("blank", *digits.labels))


def pages(digits: Dataset, seed: int, *, count: int | None = None) -> Dataset:
    """Cluttered pages, float32 [N, 40, 40, 1], and the class of every pixel, int32 [N, 40, 40].

    Three digits among eight scraps of others; a pixel of ink belongs to its digit's class d + 1, everything
    else, scraps included, to class 0.
    """
    random, small = np.random.default_rng(seed), halved(digits.x)
    count = len(digits) // 2 if count is None else count
    x = np.zeros((count, PAGE, PAGE, 1), np.float32)
    y = np.zeros((count, PAGE, PAGE), np.int32)
    for row in range(count):
        for one in random.integers(0, len(digits), 8):
            top, left = random.integers(0, PAGE - 6, 2)
            corner = random.integers(2, SIZE - 8, 2)
            scrap = small[one][corner[0] : corner[0] + 6, corner[1] : corner[1] + 6]
            x[row, top : top + 6, left : left + 6, 0] = np.maximum(
                x[row, top : top + 6, left : left + 6, 0], 0.8 * scrap
            )
        quarters = random.permutation(4)[:3]
        for quarter, one in zip(quarters, random.integers(0, len(digits), 3), strict=True):
            top, left = np.array([quarter // 2, quarter % 2]) * (PAGE // 2) + random.integers(
                0, PAGE // 2 - SIZE, 2
            )
            box = np.s_[row, top : top + SIZE, left : left + SIZE]
            x[(*box, 0)] = np.maximum(0.3 * x[(*box, 0)], small[one])
            y[box] = np.where(small[one] > INK, digits.y[one] + 1, 0)
    return Dataset(x, y, ("page", *digits.labels))


def videos(digits: Dataset, seed: int, *, count: int | None = None) -> Dataset:
    """Videos of a digit that moves across a noisy picture, float32 [N, 16, 20, 20, 1].

    The class, int32 [N], is 10 * direction + digit: forty in all. What leaves on one side comes in on the
    other.
    """
    random, small = np.random.default_rng(seed), halved(digits.x)
    count = len(digits) if count is None else count
    frames, size = VIDEO
    chosen = random.permutation(np.resize(np.arange(len(digits)), count))
    directions = random.integers(0, len(DIRECTIONS), count)
    x = random.uniform(0, 0.2, (count, frames, size, size, 1)).astype(np.float32)
    for row in range(count):
        still = np.zeros((size, size), np.float32)
        top, left = random.integers(0, size - SIZE + 1, 2)
        still[top : top + SIZE, left : left + SIZE] = small[chosen[row]]
        step = np.array(_STEPS[DIRECTIONS[directions[row]]])
        for frame in range(frames):
            x[row, frame, :, :, 0] += np.roll(still, tuple(frame * step), axis=(0, 1))
    labels = tuple(f"{digit} moves {direction}" for direction in DIRECTIONS for digit in digits.labels)
    y = (len(digits.labels) * directions + digits.y[chosen]).astype(np.int32)
    return Dataset(np.minimum(x, 1), y, labels)


def captioned(digits: Dataset, seed: int, *, count: int | None = None) -> Dataset:
    """Scenes of one to three digits in the quarters of a picture, and a sentence about each in reading order.

    The first input is the picture, float32 [N, 32, 32, 1], the second the sentence so far, int32 [N, 12]; `y`
    is the word that comes next, int32 [N, 12], such as "seven upper left and two lower right <end>".
    """
    random, small = np.random.default_rng(seed), halved(digits.x)
    count = len(digits) if count is None else count
    numbers = {word: number for number, word in enumerate(CAPTION_WORDS)}
    x = np.zeros((count, SCENE, SCENE, 1), np.float32)
    y = np.zeros((count, CAPTION_STEPS), np.int32)
    for row in range(count):
        quarters = np.sort(random.permutation(4)[: random.integers(1, 4)])
        sentence: list[str] = []
        for quarter, one in zip(quarters, random.integers(0, len(digits), len(quarters)), strict=True):
            top, left = np.array([quarter // 2, quarter % 2]) * (SCENE // 2) + random.integers(
                0, SCENE // 2 - SIZE + 1, 2
            )
            x[row, top : top + SIZE, left : left + SIZE, 0] = small[one]
            sentence += ["and"] if sentence else []
            sentence += [WORDS[digits.y[one]], *PLACES[quarter]]
        y[row, : len(sentence)] = [numbers[word] for word in sentence]
    so_far = np.concatenate([np.full((count, 1), numbers["<start>"], np.int32), y[:, :-1]], axis=1)
    return Dataset(x, y, CAPTION_WORDS, more=(so_far,))


def halved(images: Images) -> Images:
    """float32 [N, 14, 14]: the mean of each block of 2x2 pixels of [N, 28, 28, 1], brightened to reach 1."""
    blocks = images[..., 0].reshape(len(images), SIZE, 2, SIZE, 2).mean(axis=(2, 4))
    brightest: Images = blocks.max(axis=(1, 2), keepdims=True)
    return np.asarray(blocks / np.maximum(brightest, 1e-6), np.float32)
