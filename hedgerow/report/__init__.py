"""The demo's report, for programs and for people."""

from .page import html, write
from .record import (
    SCHEMA,
    Accuracy,
    Agent,
    Confusion,
    Device,
    Files,
    Group,
    Matrix,
    Measure,
    Release,
    Report,
    Round,
    Stage,
    Target,
)

__all__ = [
    "SCHEMA",
    "Accuracy",
    "Agent",
    "Confusion",
    "Device",
    "Files",
    "Group",
    "Matrix",
    "Measure",
    "Release",
    "Report",
    "Round",
    "Stage",
    "Target",
    "html",
    "write",
]
