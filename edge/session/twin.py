"""Whether another agent goes by this device's id, as the device's own state topic tells.

A broker lets one client in for each id: two agents with the same one throw each other out for ever, and each
finds the other's will where its own state was. What our predecessor said before this start is no twin's.
"""

from __future__ import annotations

from dataclasses import replace

from ...protocol.messages import DeviceState
from .state import Session

REMEMBERED_SECONDS = 600.0


def hear_own_state(session: Session, state: DeviceState) -> Session:
    """The session after a word on the device's own state topic."""
    if state.capabilities.get("instance") == session.instance:
        return session
    # What we find at our first connection is a predecessor's, unless it lives and has counted further.
    first = session.connections < 2
    if first and (not state.online or state.incarnation < session.incarnation):
        return session
    twin = f"another agent is {session.device}, too, in its incarnation {state.incarnation}"
    return replace(session, twin=twin, twin_until=session.now + REMEMBERED_SECONDS)


def twin_of(session: Session) -> str:
    """What is known of a twin now, in words; empty: nothing."""
    return session.twin if session.now < session.twin_until else ""
