"""Recurrent layers whose forward and backward passes are TFLite built-in operators."""

from __future__ import annotations

from .interception import trainable_recurrence

__all__ = ["trainable_recurrence"]
