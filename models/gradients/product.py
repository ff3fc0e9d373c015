"""Matrix products."""

from __future__ import annotations

import tensorflow as tf

from .registry import gradient, lowering, native

native("BatchMatMulV2", "Einsum", family="product", note="products with the transposed operand")


# What the converter fuses into a product, and what it looks through on the way.
_FUSED = ("Relu", "Relu6", "Maximum", "Minimum", "ClipByValue")
_TRANSPARENT = ("Identity", "Reshape", "Squeeze", "ExpandDims")


@lowering("MatMul", note="if rectified, at rank 3: at rank 2 the converter would lose the rectifier")
def rectified_product(op: tf.Operation, training: bool) -> tf.Tensor | None:
    """Products with constants, which stay FULLY_CONNECTED, keep what is fused into them."""
    a, b = op.inputs
    if b.op.type == "Const" or not _is_rectified(op.outputs[0]):
        return None
    return batched(a, b, transpose_a=op.get_attr("transpose_a"), transpose_b=op.get_attr("transpose_b"))


def _is_rectified(x: tf.Tensor) -> bool:
    return any(
        consumer.type in _FUSED or (consumer.type in _TRANSPARENT and _is_rectified(consumer.outputs[0]))
        for consumer in x.consumers()
    )


@gradient("MatMul", note="products with the transposed operand, at rank 3 where the second is transposed")
def matmul(op: tf.Operation, dy: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Both operands may have been transposed."""
    a, b = op.inputs
    transposed_a, transposed_b = op.get_attr("transpose_a"), op.get_attr("transpose_b")
    if transposed_a:
        da = multiply(b, dy, transpose_a=transposed_b, transpose_b=True)
    else:
        da = multiply(dy, b, transpose_b=not transposed_b)
    if transposed_b:
        db = multiply(dy, a, transpose_a=True, transpose_b=transposed_a)
    else:
        db = multiply(a, dy, transpose_a=not transposed_a)
    return da, db


def multiply(
    a: tf.Tensor, b: tf.Tensor, *, transpose_a: bool = False, transpose_b: bool = False
) -> tf.Tensor:
    """``a @ b`` of two matrices, in a form that reaches the fast CPU kernels.

    A product of rank 2 with the second operand transposed becomes FULLY_CONNECTED, which the delegate
    takes only with constant weights; of rank 3 it becomes BATCH_MATMUL, which it takes with any.
    """
    if not transpose_b:
        return tf.matmul(a, b, transpose_a=transpose_a)
    return batched(a, b, transpose_a=transpose_a, transpose_b=True)


def batched(a: tf.Tensor, b: tf.Tensor, *, transpose_a: bool = False, transpose_b: bool = False) -> tf.Tensor:
    """The product of two matrices as a batch of one.

    An activation after a product of rank 2 is fused into a FULLY_CONNECTED, which the converter then turns
    into a BATCH_MATMUL, because the weights are no constants, and that has no activation: relu, relu6 and
    clipping are lost without a word. Nothing is fused into a product of rank 3.
    """
    product = tf.matmul(
        tf.reshape(a, [1, *a.shape]),
        tf.reshape(b, [1, *b.shape]),
        transpose_a=transpose_a,
        transpose_b=transpose_b,
    )
    return tf.reshape(product, product.shape[1:])
