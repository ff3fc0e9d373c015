"""Data that installed packages bring, and who in a federation has which part of it."""

from . import numbers, scenes
from .dataset import Dataset, join
from .digits import federate_digits, federate_small_digits, mnist, small_digits
from .faces import faces, federate_faces
from .federation import DeviceData, Federation, deal, refuse_alpha
from .keras_data import keras_data
from .language import Vocabulary, federate_letters, federate_words, topics
from .motion import Recordings, federate_motion, spectrograms, watch
from .numbers import federate_numbers, translations
from .speech import federate_speech, japanese_vowels

__all__ = [
    "Dataset",
    "DeviceData",
    "Federation",
    "Recordings",
    "Vocabulary",
    "deal",
    "faces",
    "federate_digits",
    "federate_faces",
    "federate_letters",
    "federate_motion",
    "federate_numbers",
    "federate_small_digits",
    "federate_speech",
    "federate_words",
    "japanese_vowels",
    "join",
    "keras_data",
    "mnist",
    "numbers",
    "refuse_alpha",
    "scenes",
    "small_digits",
    "spectrograms",
    "topics",
    "translations",
    "watch",
]
