"""The table of the zoo's models."""

from __future__ import annotations

from ... import errors
from .char_lstm import CHAR_LSTM
from .cheque_reader import CHEQUE_READER
from .denoising_pretraining import DENOISING_PRETRAINING
from .digit_captioner import DIGIT_CAPTIONER
from .digit_embedding import DIGIT_EMBEDDING
from .digits_convnet import DIGITS_CONVNET
from .digits_mlp import DIGITS_MLP
from .digits_segmentation import DIGITS_SEGMENTATION
from .ds_cnn import DS_CNN
from .entry import Entry
from .face_detector import FACE_DETECTOR
from .gesture_video import GESTURE_VIDEO
from .mobilenet_v1 import MOBILENET_V1
from .molecule_activity import MOLECULE_ACTIVITY
from .motion_anomaly import MOTION_ANOMALY
from .motion_convnet import MOTION_CONVNET
from .motion_lstm import MOTION_LSTM
from .next_word_lstm import NEXT_WORD_LSTM
from .number_translator import NUMBER_TRANSLATOR
from .resnet8 import RESNET8
from .speaker_lstm import SPEAKER_LSTM
from .word_vectors import WORD_VECTORS

ENTRIES: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        DIGITS_MLP,
        DIGITS_CONVNET,
        RESNET8,
        DIGITS_SEGMENTATION,
        FACE_DETECTOR,
        MOBILENET_V1,
        DIGIT_EMBEDDING,
        DENOISING_PRETRAINING,
        GESTURE_VIDEO,
        MOTION_CONVNET,
        MOTION_LSTM,
        DS_CNN,
        MOTION_ANOMALY,
        SPEAKER_LSTM,
        CHEQUE_READER,
        WORD_VECTORS,
        NEXT_WORD_LSTM,
        CHAR_LSTM,
        NUMBER_TRANSLATOR,
        DIGIT_CAPTIONER,
        MOLECULE_ACTIVITY,
    )
}


def get(name: str) -> Entry:
    """The model of this name.

    Raises:
        errors.UnknownModelError: There is none.
    """
    try:
        return ENTRIES[name]
    except KeyError:
        raise errors.UnknownModelError(
            f"Expected one of {', '.join(ENTRIES)} as the model, received {name!r}."
        ) from None


def names() -> tuple[str, ...]:
    """The names of all models, in the order of the table."""
    return tuple(ENTRIES)
