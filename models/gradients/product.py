"""Matrix products."""

from __future__ import annotations

from .registry import native

native("MatMul", "BatchMatMulV2", family="product", note="matrix products with the transposed operand")
