"""oneDNN in TensorFlow, which some processors go without: a 3D convolution then takes 50 times as long."""

from __future__ import annotations

import os


def use_onednn() -> None:
    """Asks for it, unless the user has said something else; before TensorFlow is imported."""
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
