"""What the coordinator must not forget: rounds, tasks and updates, in a database that survives kill -9.

Every transition is committed before it is acted on. SQLite in WAL mode with `synchronous=FULL` serves one
machine; any database that SQLAlchemy speaks to serves a larger one.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any, Literal

import msgspec
from sqlalchemy import Column, Integer, MetaData, String, Table, create_engine, event, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import SQLAlchemyError

from ..errors import JournalError
from ..protocol.messages import BlobReference, Update

PhaseName = Literal["train", "evaluate"]

_metadata = MetaData()
_facts = Table("facts", _metadata, Column("name", String, primary_key=True), Column("value", String))
_phases = Table(
    "phases",
    _metadata,
    Column("round", Integer, primary_key=True),
    Column("phase", String, primary_key=True),
    Column("record", String, nullable=False),
)
_updates = Table(
    "updates",
    _metadata,
    Column("task", String, primary_key=True),
    Column("round", Integer, nullable=False),
    Column("phase", String, nullable=False),
    Column("update", String, nullable=False),
)
_rounds = Table(
    "rounds", _metadata, Column("round", Integer, primary_key=True), Column("record", String, nullable=False)
)


class PhaseRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A phase that was opened.

    Args:
        round: Counts from 1.
        phase: "train" or "evaluate".
        weights: The model that was sent out.
        available: The devices that were online; with the seed they decide which ones a strategy samples.
        result: The model after aggregation; None while the phase is open.
        metrics: Aggregated metrics.
        devices: How many updates were counted.
        bytes_up: Bytes of updates that came in.
        bytes_down: Bytes of blobs that went out.
        seconds: From the opening to the aggregation.
    """

    round: int
    phase: PhaseName
    weights: BlobReference
    available: tuple[str, ...]
    result: BlobReference | None = None
    metrics: dict[str, float] = {}
    devices: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    seconds: float = 0.0


class RoundRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A round that is over; what `hedgerow coordinator rounds` shows.

    Args:
        round: Counts from 1; 0 is the model before the first round.
        devices: How many updates were aggregated.
        device_loss: On the devices' own test samples, after the round.
        device_accuracy: Likewise.
        held_out_loss: On the coordinator's own test data, if it has any.
        held_out_accuracy: Likewise.
        seconds: Training and evaluation together.
        bytes_down: Bytes of blobs that the coordinator published.
        bytes_up: Bytes of updates that it received.
        weights: The model after the round.
    """

    round: int
    devices: int
    device_loss: float | None
    device_accuracy: float | None
    held_out_loss: float | None
    held_out_accuracy: float | None
    seconds: float
    bytes_down: int
    bytes_up: int
    weights: BlobReference


class Journal:
    """The coordinator's durable memory.

    Args:
        folder: Where `journal.sqlite` is, or will be.

    Raises:
        JournalError: The database cannot be opened.
    """

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._engine = create_engine(f"sqlite:///{folder / 'journal.sqlite'}")
            event.listen(self._engine, "connect", _make_durable)
            _metadata.create_all(self._engine)
        except (SQLAlchemyError, OSError) as error:
            raise JournalError(f"Expected a journal in {folder}, received: {error}.") from error

    def close(self) -> None:
        """Closes the database."""
        self._engine.dispose()

    def fact(self, name: str) -> str | None:
        """A fact of the whole run, or None."""
        with self._engine.connect() as connection:
            return connection.execute(select(_facts.c.value).where(_facts.c.name == name)).scalar()

    def set_fact(self, name: str, value: str) -> None:
        """Writes a fact of the whole run."""
        self._put(_facts, {"name": name, "value": value})

    def next_epoch(self) -> int:
        """Counts this start of the coordinator, from 1."""
        epoch = int(self.fact("epoch") or 0) + 1
        self.set_fact("epoch", str(epoch))
        return epoch

    def run(self) -> str:
        """The random name of this run, so that its tasks are not taken for another run's."""
        name = self.fact("run")
        if name is None:
            name = secrets.token_hex(4)
            self.set_fact("run", name)
        return name

    def put_phase(self, record: PhaseRecord) -> None:
        """Writes a phase: when it opens, and again with its result."""
        self._put(_phases, {"round": record.round, "phase": record.phase, "record": _json(record)})

    def phase(self, round_: int, phase: PhaseName) -> PhaseRecord | None:
        """A phase that was opened, or None."""
        with self._engine.connect() as connection:
            text = connection.execute(
                select(_phases.c.record).where(_phases.c.round == round_, _phases.c.phase == phase)
            ).scalar()
        return None if text is None else msgspec.json.decode(text, type=PhaseRecord)

    def put_update(self, phase: PhaseName, update: Update) -> None:
        """Writes that an update is stored and counts."""
        values = {"task": update.task, "round": update.round, "phase": phase, "update": _json(update)}
        self._put(_updates, values)

    def updates(self, round_: int, phase: PhaseName) -> tuple[Update, ...]:
        """The updates that count, in the order in which they were stored."""
        query = select(_updates.c.update).where(_updates.c.round == round_, _updates.c.phase == phase)
        with self._engine.connect() as connection:
            return tuple(
                msgspec.json.decode(text, type=Update) for text in connection.execute(query).scalars()
            )

    def has_update(self, task: str) -> bool:
        """Whether a task's update was stored, in any round."""
        with self._engine.connect() as connection:
            return (
                connection.execute(select(_updates.c.task).where(_updates.c.task == task)).first() is not None
            )

    def put_round(self, record: RoundRecord) -> None:
        """Writes a round that is over."""
        self._put(_rounds, {"round": record.round, "record": _json(record)})

    def rounds(self) -> tuple[RoundRecord, ...]:
        """The rounds that are over, in order."""
        with self._engine.connect() as connection:
            texts = connection.execute(select(_rounds.c.record).order_by(_rounds.c.round)).scalars()
            return tuple(msgspec.json.decode(text, type=RoundRecord) for text in texts)

    def _put(self, table: Table, values: dict[str, Any]) -> None:
        statement = insert(table).values(values)
        keys = [column.name for column in table.primary_key]
        rest = {name: statement.excluded[name] for name in values if name not in keys}
        try:
            with self._engine.begin() as connection:
                connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=rest))
        except SQLAlchemyError as error:
            raise JournalError(
                f"Expected to write to the table {table.name!r}, received: {error}."
            ) from error


def _json(record: msgspec.Struct) -> str:
    return msgspec.json.encode(record).decode()


def _make_durable(connection: Any, record: Any) -> None:
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=5000"):
        connection.execute(f"PRAGMA {pragma}")
