"""Data that installed packages bring, and who in a federation has which part of it."""

from .dataset import Dataset
from .digits import mnist
from .federation import DeviceData, Federation, federate_digits, federate_motion
from .motion import Recordings, watch

__all__ = [
    "Dataset",
    "DeviceData",
    "Federation",
    "Recordings",
    "federate_digits",
    "federate_motion",
    "mnist",
    "watch",
]
