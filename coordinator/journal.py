"""What the coordinator must not forget: rounds, tasks and updates, in a database that survives kill -9.

Every transition is committed before it is acted on. SQLite in WAL mode with `synchronous=FULL`: a commit is
on the disk when it returns.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Column, Integer, MetaData, String, Table, create_engine, delete, event, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.schema import CreateIndex, CreateTable

from ..errors import JournalError
from ..protocol.messages import BlobReference, Update
from .records import PhaseName, PhaseRecord, RoundRecord

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
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("task", String, nullable=False, unique=True),
    Column("round", Integer, nullable=False, index=True),
    Column("phase", String, nullable=False),
    Column("update", String, nullable=False),
)
_refusals = Table(
    "refusals",
    _metadata,
    Column("task", String, primary_key=True),
    Column("round", Integer, nullable=False, index=True),
    Column("phase", String, nullable=False),
    Column("reason", String, nullable=False),
)
_rounds = Table(
    "rounds", _metadata, Column("round", Integer, primary_key=True), Column("record", String, nullable=False)
)
_offers = Table(
    "offers", _metadata, Column("sha256", String, primary_key=True), Column("blob", String, nullable=False)
)

_deliveries = Table(
    "deliveries",
    _metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("tasks", String, nullable=False),
)


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
            self._create_tables()
        except (SQLAlchemyError, OSError) as error:
            raise JournalError(f"Expected a journal in {folder}, received: {error}.") from error

    def _create_tables(self) -> None:
        """Makes what is missing; a program that only looks may do so at the same moment."""
        with self._engine.begin() as connection:
            for table in _metadata.sorted_tables:
                connection.execute(CreateTable(table, if_not_exists=True))
                for index in table.indexes:
                    connection.execute(CreateIndex(index, if_not_exists=True))

    def close(self) -> None:
        """Closes the database."""
        self._engine.dispose()

    # --- the run ------------------------------------------------------------------------------------------

    def fact(self, name: str) -> str | None:
        """A fact of the whole run, or None."""
        with self._engine.connect() as connection:
            return connection.execute(select(_facts.c.value).where(_facts.c.name == name)).scalar()

    def set_fact(self, name: str, value: str) -> None:
        """Writes a fact of the whole run."""
        self._put(_facts, [{"name": name, "value": value}])

    def next_epoch(self, above: int = 0) -> int:
        """Counts a connection of the coordinator, from 1, and past `above`."""
        epoch = max(int(self.fact("epoch") or 0), above) + 1
        self.set_fact("epoch", str(epoch))
        return epoch

    def run(self) -> str:
        """The random name of this run, so that its tasks are not taken for another run's."""
        return self._secret("run", 4)

    def entropy(self) -> str:
        """A secret that seeds the noise of differential privacy: the same after a restart."""
        return self._secret("entropy", 32)

    def _secret(self, name: str, length: int) -> str:
        known = self.fact(name)
        if known is None:
            known = secrets.token_hex(length)
            self.set_fact(name, known)
        return known

    # --- phases and rounds --------------------------------------------------------------------------------

    def put_phase(self, record: PhaseRecord) -> None:
        """Writes a phase: when it opens, when it closes, and with its result."""
        self._put(_phases, [{"round": record.round, "phase": record.phase, "record": _json(record)}])

    def phase(self, round_: int, phase: PhaseName) -> PhaseRecord | None:
        """A phase that was opened, or None."""
        with self._engine.connect() as connection:
            text = connection.execute(
                select(_phases.c.record).where(_phases.c.round == round_, _phases.c.phase == phase)
            ).scalar()
        return None if text is None else msgspec.json.decode(text, type=PhaseRecord)

    def put_round(self, record: RoundRecord) -> None:
        """Writes a round that is over."""
        self._put(_rounds, [{"round": record.round, "record": _json(record)}])

    def rounds(self) -> tuple[RoundRecord, ...]:
        """The rounds that are over, in order."""
        with self._engine.connect() as connection:
            texts = connection.execute(select(_rounds.c.record).order_by(_rounds.c.round)).scalars()
            return tuple(msgspec.json.decode(text, type=RoundRecord) for text in texts)

    # --- updates ------------------------------------------------------------------------------------------

    def put_updates(self, phase: PhaseName, round_: int, updates: Sequence[Update]) -> None:
        """Writes, in one commit, that updates are stored and count in a round, whichever asked for them."""
        self._put(
            _updates,
            [{"task": u.task, "round": round_, "phase": phase, "update": _json(u)} for u in updates],
            key="task",
        )

    def updates(self, round_: int, phase: PhaseName) -> tuple[Update, ...]:
        """The updates that count, in the order in which they were stored."""
        query = select(_updates.c.update).where(_updates.c.round == round_, _updates.c.phase == phase)
        with self._engine.connect() as connection:
            texts = connection.execute(query.order_by(_updates.c.number)).scalars()
            return tuple(msgspec.json.decode(text, type=Update) for text in texts)

    def update(self, task: str) -> Update | None:
        """A task's update that was stored, in any round, or None."""
        query = select(_updates.c.update).where(_updates.c.task == task)
        with self._engine.connect() as connection:
            text = connection.execute(query).scalar()
        return None if text is None else msgspec.json.decode(text, type=Update)

    def put_refusal(self, phase: PhaseName, round_: int, task: str, reason: str) -> None:
        """Writes that a task's update was refused for good."""
        self._put(_refusals, [{"task": task, "round": round_, "phase": phase, "reason": reason}])

    def refusals(self, round_: int, phase: PhaseName) -> dict[str, str]:
        """Why updates were refused, by task."""
        query = select(_refusals.c.task, _refusals.c.reason)
        query = query.where(_refusals.c.round == round_, _refusals.c.phase == phase)
        with self._engine.connect() as connection:
            return {row.task: row.reason for row in connection.execute(query)}

    # --- what a Flower app was given ----------------------------------------------------------------------

    def put_delivery(self, tasks: Sequence[str]) -> None:
        """Writes which answers an app was given when it asked for some."""
        text = msgspec.json.encode(tasks).decode()
        self._execute(_deliveries, insert(_deliveries).values(tasks=text))

    def deliveries(self) -> tuple[tuple[str, ...], ...]:
        """The answers that an app was given, in order."""
        with self._engine.connect() as connection:
            texts = connection.execute(select(_deliveries.c.tasks).order_by(_deliveries.c.number)).scalars()
            return tuple(msgspec.json.decode(text, type=tuple[str, ...]) for text in texts)

    # --- what is on the broker ----------------------------------------------------------------------------

    def put_offer(self, blob: BlobReference) -> None:
        """Writes that a blob's chunks will be retained on the broker."""
        self._put(_offers, [{"sha256": blob.sha256, "blob": _json(blob)}])

    def drop_offer(self, sha256: str) -> None:
        """Writes that a blob's chunks were cleared from the broker."""
        self._execute(_offers, delete(_offers).where(_offers.c.sha256 == sha256))

    def offers(self) -> tuple[BlobReference, ...]:
        """The blobs whose chunks may be retained on the broker."""
        with self._engine.connect() as connection:
            texts = connection.execute(select(_offers.c.blob)).scalars()
            return tuple(msgspec.json.decode(text, type=BlobReference) for text in texts)

    # --- writing ------------------------------------------------------------------------------------------

    def _put(self, table: Table, rows: list[dict[str, Any]], *, key: str | None = None) -> None:
        if not rows:
            return
        statement = insert(table)
        keys = [key] if key else [column.name for column in table.primary_key]
        rest = {name: statement.excluded[name] for name in rows[0] if name not in keys}
        # The rows apart from the statement: SQLAlchemy then works it out once and not for every length.
        self._execute(table, statement.on_conflict_do_update(index_elements=keys, set_=rest), rows)

    def _execute(self, table: Table, statement: Any, rows: list[dict[str, Any]] | None = None) -> None:
        """Every change of the journal comes through here: one commit, on the disk on return."""
        try:
            with self._engine.begin() as connection:
                connection.execute(statement, rows)
        except SQLAlchemyError as error:
            raise JournalError(
                f"Expected to write to the table {table.name!r}, received: {error}."
            ) from error


def _json(record: msgspec.Struct) -> str:
    return msgspec.json.encode(record).decode()


def _make_durable(connection: Any, record: Any) -> None:
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=5000"):
        connection.execute(f"PRAGMA {pragma}")
