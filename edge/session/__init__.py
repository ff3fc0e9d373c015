"""The agent's decisions, pure: `step(session, event) -> (session, actions)`."""

from . import events
from .machine import step
from .state import Session

__all__ = ["Session", "events", "step"]
