"""Losses that run, forward and backward, inside a `.tflite` file."""

from .catalogue import NAMES, for_model, get
from .crossentropy import BinaryCrossentropy, CategoricalCrossentropy, SparseCategoricalCrossentropy
from .ctc import CTC
from .embedding import Contrastive, Triplet
from .loss import Loss, WeightedLoss, example_count, mask_rows, weighted
from .regression import CosineSimilarity, Huber, MeanAbsoluteError, MeanSquaredError

__all__ = [
    "CTC",
    "NAMES",
    "BinaryCrossentropy",
    "CategoricalCrossentropy",
    "Contrastive",
    "CosineSimilarity",
    "Huber",
    "Loss",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "SparseCategoricalCrossentropy",
    "Triplet",
    "WeightedLoss",
    "example_count",
    "for_model",
    "get",
    "mask_rows",
    "weighted",
]
