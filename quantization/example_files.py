"""Labelled examples from files: arrays, images and sounds."""

from __future__ import annotations

import wave
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from ..errors import DataShapeError, DataSourceError, EmptyClassError

Array = NDArray[Any]
Labelled = tuple[Array, Array, tuple[str, ...]]

_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif")
_SOUNDS = (".wav",)


def read_arrays(path: Path) -> Labelled:
    """The arrays `x` and `y` of an `.npz`, and `labels` if they are there.

    Raises:
        DataSourceError: They are not in it.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            labels = tuple(map(str, stored["labels"])) if "labels" in stored else ()
            return stored["x"], stored["y"], labels
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataSourceError(f"Expected an .npz with x and y in {str(path)!r}: {error}.") from error


def read_folder(folder: Path, shape: tuple[int, ...]) -> Labelled:
    """Images or WAV files, one folder per class, classes in the order of their names.

    Args:
        folder: Where the classes are.
        shape: What the model takes: `[height, width, 1 or 3]` for images, `[samples]` or `[samples, 1]` for
            sounds.

    Returns:
        Images float32 in [0, 1], sounds float32 in [-1, 1], cut or filled with silence to the model's length.

    Raises:
        DataShapeError: The model takes neither.
        DataSourceError: There are no folders, or a file cannot be read.
        EmptyClassError: A folder has no such files.
    """
    images = len(shape) == 3 and shape[2] in (1, 3)
    sounds = len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)
    if not images and not sounds:
        raise DataShapeError(
            f"Expected a model that takes images [height, width, channels] or sounds [samples], it takes "
            f"{list(shape)}."
        )
    labels = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir()))
    suffixes = _IMAGES if images else _SOUNDS
    files = [
        (path, number)
        for number, label in enumerate(labels)
        for path in sorted((folder / label).iterdir())
        if path.suffix.lower() in suffixes
    ]
    if not labels:
        raise DataSourceError(f"Expected one folder per class in {str(folder)!r}, found none.")
    present = {number for _, number in files}
    empty = [label for number, label in enumerate(labels) if number not in present]
    if empty:
        kind = "images" if images else "WAV files"
        raise EmptyClassError(
            f"Expected {kind} in every folder of {str(folder)!r}, none in {', '.join(empty)}."
        )
    x = np.zeros((len(files), *shape), np.float32)
    for place, (path, _) in enumerate(files):
        x[place] = _image(path, shape) if images else _sound(path, shape[0]).reshape(shape)
    return x, np.array([number for _, number in files], np.int64), labels


def _image(path: Path, shape: tuple[int, ...]) -> Array:
    mode = "grayscale" if shape[2] == 1 else "rgb"
    try:
        image = keras.utils.load_img(path, color_mode=mode, target_size=shape[:2])
    except OSError as error:
        raise DataSourceError(f"Cannot read the image {str(path)!r}: {error}.") from error
    pixels: Array = keras.utils.img_to_array(image) / 255
    return pixels


def _sound(path: Path, samples: int) -> Array:
    """The first channel of 16-bit PCM, `[samples]` in [-1, 1]."""
    try:
        with wave.open(str(path)) as file:
            if file.getsampwidth() != 2:
                raise wave.Error(f"{8 * file.getsampwidth()} bits a sample, not 16")
            channels = file.getnchannels()
            data = np.frombuffer(file.readframes(samples), "<i2")[::channels]
    except (OSError, EOFError, wave.Error) as error:
        raise DataSourceError(f"Cannot read the sound {str(path)!r}: {error}.") from error
    sound = np.zeros(samples, np.float32)
    sound[: len(data)] = data / 32768
    return sound
