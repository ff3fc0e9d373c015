"""The zoo: small, readable Keras models with their data and the numbers that train them."""

from ..datasets import Federation
from .entry import CentralTraining, Entry, FederatedTraining
from .registry import get, names

__all__ = ["CentralTraining", "Entry", "FederatedTraining", "Federation", "get", "names"]
