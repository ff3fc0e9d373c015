"""The zoo: small, readable Keras models with their data and the numbers that train them."""

from .entry import CentralTraining, Entry, FederatedTraining
from .registry import get, names

__all__ = ["CentralTraining", "Entry", "FederatedTraining", "get", "names"]
