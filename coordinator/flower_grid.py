"""Flower's `Grid` over MQTT for a whole ServerApp, which goes on where it was after kill -9.

A ServerApp is any program: it cannot be asked where it was. So it begins anew, and this grid repeats from the
journal what it was told the first time: which nodes there were, what they answered, in the same order. Up to
the place where it was killed that takes as long as its own computing; from there on it is live.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future

import msgspec
from flwr.app import Message, Metadata

from ..errors import FlowerAppError
from ..protocol.blobs import reference
from ..protocol.messages import BlobReference, FlowerMessage, Scalar, Update
from . import flower, flower_records
from .flower_admission import outliers
from .intake import Intake
from .journal import Journal
from .postbox import UNAVAILABLE, Postbox
from .records import Letter, PhaseRecord
from .roster import node_id

TTL_SECONDS_AT_MOST = 30 * 86_400.0
logger = logging.getLogger(__name__)


class FleetGrid(flower.NodeGrid):
    """What a ServerApp sees of the fleet.

    Args:
        postbox: Sends and hears.
        journal: What happened before a restart.
        intake: Where answers are.
        app: "publisher/name".
        run_id: Names the run.
        run_config: What ClientApps are to see as the run's configuration.
    """

    def __init__(
        self,
        postbox: Postbox,
        journal: Journal,
        intake: Intake,
        *,
        app: str,
        run_id: int,
        run_config: Mapping[str, Scalar],
    ) -> None:
        super().__init__(self._node_ids)
        flower.be(run_id)
        self.run.run_id, self.run.override_config = run_id, dict(run_config)
        self._postbox = postbox
        self._journal = journal
        self._intake = intake
        self._app = app
        self._run_config = dict(run_config)
        self._deliveries = list(journal.deliveries())
        self._repeated = list(_batches_in(journal))
        self._posted = len(self._repeated)
        # Flower's older apps, of a strategy and clients, ask from several threads.
        self._lock = threading.RLock()
        self._names: dict[int, str] = {}
        self._seen: tuple[str, ...] = ()
        self._sent: dict[str, Message] = {}
        self._batch_of: dict[str, int] = {}
        self._closed: dict[int, Future[None]] = {}
        self._repeats = True

    def _node_ids(self) -> list[int]:
        with self._lock:
            self._seen = self._repeated[0].available if self._repeated else self._postbox.devices()
            ids = {node_id(name): name for name in self._seen}
            self._names |= ids
            return list(ids)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Sends messages; their names, to pull the replies by."""
        return [task for batch in self._batches(messages) for task in self._post(batch)]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that have come and were not pulled before."""
        with self._lock:
            wanted = set(message_ids) & self._sent.keys()
            if self._deliveries:
                tasks = self._deliveries[0] if wanted.issuperset(self._deliveries[0]) else ()
                answers = self._answers(tasks)
                del self._deliveries[: bool(tasks)]
            else:
                answers = self._answers(wanted)
                if answers:
                    self._journal.put_delivery(list(answers))
            return self._replies(answers)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Sends messages and waits for the replies, at most `timeout` seconds."""
        seconds = TTL_SECONDS_AT_MOST if timeout is None else timeout
        tasks: list[str] = []
        for batch in self._batches(messages):
            tasks += self._post(batch, seconds=seconds)
        for number in {self._batch_of[task] for task in tasks} & self._closed.keys():
            self._postbox.wait(self._closed.pop(number))
        with self._lock:
            replies = self._replies(self._answers(tasks))
        return self._alike(replies)

    # --- out ----------------------------------------------------------------------------------------------

    def _batches(self, messages: Iterable[Message]) -> list[list[Message]]:
        """The messages, so that no batch has two for one node."""
        batches: list[list[Message]] = []
        count: dict[int, int] = {}
        for message in messages:
            place = count.get(message.metadata.dst_node_id, 0)
            count[message.metadata.dst_node_id] = place + 1
            if place == len(batches):
                batches.append([])
            batches[place].append(message)
        return batches

    def _post(self, messages: Sequence[Message], *, seconds: float = TTL_SECONDS_AT_MOST) -> list[str]:
        with self._lock:
            letters, contents = self._letters(messages, self._posted + 1)
            record = self._repeated_batch(letters) if self._repeated else None
            if record is None:
                self._posted += 1
                record = PhaseRecord(
                    round=self._posted,
                    phase="messages",
                    weights=letters[0].content,
                    available=self._seen,
                    letters=letters,
                )
            for letter, message in zip(record.letters, messages, strict=True):
                self._sent[letter.task] = flower.sent(message, letter.task)
                self._batch_of[letter.task] = record.round
            if not record.closed:
                self._closed[record.round] = self._postbox.post(record, contents, seconds=seconds)
            return [letter.task for letter in record.letters]

    def _letters(
        self, messages: Sequence[Message], batch: int
    ) -> tuple[tuple[Letter, ...], dict[str, bytes]]:
        run, known = self._journal.run(), dict[int, BlobReference]()
        letters, contents = [], {}
        for message in messages:
            said, name = message.metadata, self._name(message.metadata.dst_node_id)
            key = id(message.content)
            if key not in known:
                data = flower_records.encode(message.content)
                known[key] = reference(data, codec="flower")
                contents[known[key].sha256] = data
            task = f"{run}-{batch}-{name}"
            letters.append(Letter(task=task, device=name, content=known[key], message=self._envelope(said)))
        return tuple(letters), contents

    def _envelope(self, said: Metadata) -> FlowerMessage:
        message = FlowerMessage(
            app=self._app,
            run_id=said.run_id,
            node_id=said.dst_node_id,
            message_type=said.message_type,
            group_id=said.group_id,
            ttl_seconds=min(max(said.ttl, 1.0), TTL_SECONDS_AT_MOST),
            run_config=self._run_config,
        )
        try:
            # A device would drop what it cannot read, and everybody would wait for it.
            return msgspec.convert(msgspec.to_builtins(message), FlowerMessage)
        except msgspec.ValidationError as error:
            raise FlowerAppError(f"Expected a message that can be sent, received: {error}.") from error

    def _name(self, node: int) -> str:
        if node not in self._names:
            self._node_ids()
        if node not in self._names:
            raise FlowerAppError(f"Expected a node of the fleet, received a message for node {node}.")
        return self._names[node]

    def _repeated_batch(self, letters: tuple[Letter, ...]) -> PhaseRecord:
        """The batch that the app sends once more. One that sends to others than before cannot be taken up."""
        again = [(letter.device, letter.message.message_type) for letter in letters]
        for place, record in enumerate(self._repeated):
            if [(letter.device, letter.message.message_type) for letter in record.letters] == again:
                del self._repeated[place]
                self._compare(record, letters)
                return record
        before = [(x.device, x.message.message_type) for x in self._repeated[0].letters]
        raise FlowerAppError(
            f"Expected the app to send batch {self._repeated[0].round} to {before[:4]}, as before it was"
            f" stopped, received {again[:4]}: it does not repeat itself."
        )

    def _compare(self, record: PhaseRecord, letters: tuple[Letter, ...]) -> None:
        before = [letter.content.sha256 for letter in record.letters]
        if self._repeats and before != [letter.content.sha256 for letter in letters]:
            self._repeats = False
            logger.warning("batch %d has other numbers than before: the answers of then count", record.round)

    # --- in -----------------------------------------------------------------------------------------------

    def _answers(self, tasks: Iterable[str]) -> dict[str, Update | str]:
        """What has come by now, by batch and in each in order of the devices' names."""
        wanted = set(tasks)
        found: dict[str, Update | str] = {}
        for number in sorted({self._batch_of[task] for task in wanted}):
            came = self._postbox.answers(number)
            # Not as they came: Krum decides a tie by the order, and it has one whenever two are nearest.
            found |= {task: came[task] for task in sorted(came) if task in wanted}
        return found

    def _replies(self, answers: Mapping[str, Update | str]) -> list[Message]:
        replies = []
        for task, answer in answers.items():
            message = self._sent.pop(task)
            if isinstance(answer, Update):
                content = flower_records.open_file(self._intake.path(task))
                replies.append(flower.reply_of(message, content))
            else:
                unavailable = answer == UNAVAILABLE
                replies.append(flower.failure_of(message, answer, unavailable=unavailable))
        return replies

    def _alike(self, replies: list[Message]) -> list[Message]:
        """A strategy would end the run over one reply that differs from the others."""
        plain = [reply.metadata.message_type in ("train", "evaluate") for reply in replies]
        if not all(plain):
            return replies
        for place, reason in outliers(replies).items():
            logger.warning("refused the reply %s: %s", replies[place].metadata.message_id, reason)
            replies[place] = flower.as_failure(replies[place], reason)
        return replies


def _batches_in(journal: Journal) -> Iterator[PhaseRecord]:
    number = 1
    while (record := journal.phase(number, "messages")) is not None:
        yield record
        number += 1
