"""Operators that move, cut or join elements without computing."""

from __future__ import annotations

from .registry import native

native(
    "Reshape", "Squeeze", "ExpandDims", "Transpose", "Identity", "IdentityN", "StopGradient", "ConcatV2",
    "Pack", "Unpack", "Split", "SplitV", "Pad", "PadV2", "SpaceToBatchND", "BatchToSpaceND", "SpaceToDepth",
    "DepthToSpace",
    family="shape",
)  # fmt: skip
