"""Which formula a Keras cell follows, and where its weights are."""

from __future__ import annotations

import keras
import tensorflow as tf

from .activation import activation_of
from .formula import CellWeights, Formula
from .gru import GruResetAfterFormula, GruResetBeforeFormula
from .lstm import LstmFormula
from .simple_rnn import SimpleRnnFormula


def formula_of(cell: keras.Layer) -> Formula | None:
    """Finds the formula of Keras's own cells.

    A subclass may compute anything, so only the very classes count; and an activation must be one whose slope
    can be told from its output.

    Returns:
        The formula, or None for a cell that has to be traced step by step.
    """
    if type(cell) not in (keras.layers.SimpleRNNCell, keras.layers.GRUCell, keras.layers.LSTMCell):
        return None
    activation = activation_of(cell.activation)
    if activation is None:
        return None
    if type(cell) is keras.layers.SimpleRNNCell:
        return SimpleRnnFormula(cell.units, activation)
    recurrent = activation_of(cell.recurrent_activation)
    if recurrent is None:
        return None
    if type(cell) is keras.layers.LSTMCell:
        return LstmFormula(cell.units, activation, recurrent)
    if cell.reset_after:
        return GruResetAfterFormula(cell.units, activation, recurrent)
    return GruResetBeforeFormula(cell.units, activation, recurrent)


def weights_of(cell: keras.Layer, dtype: tf.DType) -> CellWeights:
    """Reads the weights of one of Keras's own cells in a type of number."""

    def read(variable: keras.Variable) -> tf.Tensor:
        return tf.cast(tf.convert_to_tensor(variable), dtype)

    bias = None if cell.bias is None else read(cell.bias)
    return CellWeights(read(cell.kernel), read(cell.recurrent_kernel), bias)
