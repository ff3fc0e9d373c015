"""What a conversion is asked for: known before TensorFlow is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras

    from .quantization.loading import Data


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionOptions:
    """What `hedgerow convert` was asked for, in its words; `hedgerow.convert` explains them."""

    model: str | Path | keras.Model
    data: str | Path | Data
    out: Path
    targets: tuple[str, ...] = ()
    recipes: tuple[str, ...] = ()
    max_drop: float = 0.01
    length: int | None = None
    name: str | None = None
    version: str = "1.0.0"
    key: Path | None = None
    seed: int = 0
