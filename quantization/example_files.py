"""Labelled examples from files: arrays, images, sounds and tables."""

from __future__ import annotations

import csv
import wave
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from ..errors import CalibrationError

Array = NDArray[Any]
Labelled = tuple[Array, Array, tuple[str, ...]]

_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif")
_SOUNDS = (".wav",)


def read_arrays(path: Path) -> Labelled:
    """The arrays `x` and `y` of an `.npz`, and `labels` if they are there.

    Raises:
        CalibrationError: They are not in it.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            labels = tuple(map(str, stored["labels"])) if "labels" in stored else ()
            return stored["x"], stored["y"], labels
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise CalibrationError(f"Expected an .npz with x and y in {str(path)!r}: {error}.") from error


def read_folder(folder: Path, shape: tuple[int, ...]) -> Labelled:
    """Images or WAV files, one folder per class, classes in the order of their names.

    Args:
        folder: Where the classes are.
        shape: What the model takes: `[height, width, 1 or 3]` for images, `[samples]` or `[samples, 1]` for
            sounds.

    Returns:
        Images float32 in [0, 1], sounds float32 in [-1, 1], cut or filled with silence to the model's length.

    Raises:
        CalibrationError: The model takes neither, or a file cannot be read.
    """
    images = len(shape) == 3 and shape[2] in (1, 3)
    sounds = len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)
    if not images and not sounds:
        raise CalibrationError(
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
    x = np.zeros((len(files), *shape), np.float32)
    for place, (path, _) in enumerate(files):
        x[place] = _image(path, shape) if images else _sound(path, shape[0]).reshape(shape)
    return x, np.array([number for _, number in files], np.int64), labels


def read_table(path: Path, shape: tuple[int, ...]) -> Labelled:
    """Windows of a CSV file of sensor readings, one row per step, with a header.

    The column `label` holds the class, every other one a feature. A window is as many rows in a row of one
    class as the model takes; windows do not overlap.

    Args:
        path: The file.
        shape: What the model takes: `[steps, features]`, or `[features]` for one row an example.

    Raises:
        CalibrationError: A column or a number is missing, or no window is long enough.
    """
    steps, features = (1, shape[0]) if len(shape) == 1 else (shape[0], shape[-1])
    try:
        with path.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        names = [row.pop("label") for row in rows]
        values = np.array([[float(value) for value in row.values()] for row in rows], np.float32)
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise CalibrationError(
            f"Expected rows of numbers and a column 'label' in {str(path)!r}: {type(error).__name__} {error}."
        ) from error
    if values.ndim != 2 or values.shape[1] != features:
        raise CalibrationError(
            f"Expected {features} features beside 'label' in {str(path)!r}, found {values.shape}."
        )
    labels = tuple(sorted(set(names)))
    starts, place = [], 0
    while place + steps <= len(names):
        if len(set(names[place : place + steps])) == 1:
            starts.append(place)
            place += steps
        else:
            place += 1
    if not starts:
        raise CalibrationError(f"Expected {steps} rows of one class in a row in {str(path)!r}, found none.")
    x = np.stack([values[start : start + steps] for start in starts]).reshape(len(starts), *shape)
    return x, np.array([labels.index(names[start]) for start in starts], np.int64), labels


def _image(path: Path, shape: tuple[int, ...]) -> Array:
    mode = "grayscale" if shape[2] == 1 else "rgb"
    try:
        image = keras.utils.load_img(path, color_mode=mode, target_size=shape[:2])
    except OSError as error:
        raise CalibrationError(f"Cannot read the image {str(path)!r}: {error}.") from error
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
        raise CalibrationError(f"Cannot read the sound {str(path)!r}: {error}.") from error
    sound = np.zeros(samples, np.float32)
    sound[: len(data)] = data / 32768
    return sound
