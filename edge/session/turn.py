"""One step in the making."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from . import events
from .events import Action
from .state import Session
from .twin import twin_of


class Turn:
    """The session so far, and what is to be done."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.actions: list[Action] = []

    def change(self, **fields: Any) -> None:
        """Replaces fields of the session."""
        self.session = replace(self.session, **fields)

    def do(self, *actions: Action) -> None:
        """Adds actions, in order."""
        self.actions.extend(actions)

    def say(self, kind: type[Any], **fields: Any) -> None:
        """Publishes, unless nobody would hear it: whatever matters is said again when the link is up."""
        if not self.session.connected:
            return
        self.change(counter=self.session.counter + 1)
        self.do(events.Publish(kind(**fields, **sender(self.session))))

    def announce(self, *, online: bool = True) -> None:
        """Publishes the retained state, with every task at hand."""
        if self.session.connected:
            self.change(counter=self.session.counter + 1)
            session = self.session
            twin = twin_of(session)
            self.do(events.Announce(online, session.counter, session.epoch, session.tasks, twin))

    def note(self, text: str) -> None:
        """Adds a line to the log."""
        self.do(events.Note(text))


def sender(session: Session) -> dict[str, Any]:
    """The fields that every message of a device carries."""
    return {
        "device": session.device,
        "incarnation": session.incarnation,
        "counter": session.counter,
        "epoch": session.epoch,
    }
