"""A stock Flower ClientApp on a device: answers messages, and remembers its state from one to the next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flwr.app import Context, RecordDict
from flwr.clientapp import ClientApp

from ..errors import FlowerAppError, TensorsError
from ..protocol.blobs import write_durably
from ..protocol.messages import FlowerMessage, Scalar
from . import flower, flower_records

BEFORE, AFTER = "before", "after"


class Memory:
    """What a ClientApp keeps in `context.state` for a run.

    The state before and after the last message are one file: a device that was killed before its answer was
    safe is asked again, and must then answer from the state before.

    Args:
        folder: Made if missing.
        run_id: The run; what another one has left is removed.
    """

    def __init__(self, folder: Path, run_id: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._paths = {moment: folder / f"{run_id}.{moment}" for moment in (BEFORE, AFTER)}
        for path in folder.iterdir():
            if path not in self._paths.values():
                path.unlink()

    def recall(self, task: str) -> RecordDict:
        """The state in which a message is to be answered."""
        data = _read(self._paths[AFTER])
        if data is None:
            return RecordDict()
        last, state = _unpack(data)
        if last != task:
            return state
        before = _read(self._paths[BEFORE])
        return RecordDict() if before is None else _unpack(before)[1]

    def keep(self, task: str, state: RecordDict, before: RecordDict) -> None:
        """Writes the state after a message, and before it."""
        write_durably(self._paths[BEFORE], _pack(task, before))
        write_durably(self._paths[AFTER], _pack(task, state))


class Client:
    """Answers messages with the ClientApp of a project.

    Args:
        project: The app.
        folder: For what it remembers.
        node_config: What is this device's alone, such as "partition-id".

    Raises:
        FlowerAppError: The app cannot be loaded.
    """

    def __init__(self, project: flower.Project, folder: Path, node_config: dict[str, Scalar]) -> None:
        self._project = project
        self._folder = folder
        self._node_config = node_config
        self._app: ClientApp | None = None

    def answer(self, said: FlowerMessage, task: str, content: bytes) -> RecordDict:
        """What the app replies.

        Args:
            said: What the message says beside its content.
            task: Its name.
            content: Its records.

        Raises:
            FlowerAppError: The message is for another app, or the app raised an error or replied with one.
            TensorsError: The content is no such thing.
        """
        if said.app != self._project.name:
            raise FlowerAppError(f"Expected a message for {self._project.name}, received one for {said.app}.")
        flower.be(said.run_id, said.node_id)
        memory = Memory(self._folder, said.run_id)
        state = memory.recall(task)
        before = flower_records.encode(state)
        context = Context(
            run_id=said.run_id,
            node_id=said.node_id,
            node_config=self._node_config,
            state=state,
            run_config=dict(said.run_config),
        )
        message = flower.received(said, task, flower_records.decode(content))
        reply = self._reply(message, context)
        memory.keep(task, context.state, flower_records.decode(before))
        return reply

    def _reply(self, message: Any, context: Context) -> RecordDict:
        try:
            if self._app is None:
                self._app = self._load()
            reply = self._app(message, context)
        except FlowerAppError:
            raise
        except Exception as error:
            raise FlowerAppError(
                f"Expected the ClientApp to reply, received {type(error).__name__}: {error}."
            ) from error
        if reply.has_error():
            raise FlowerAppError(
                f"Expected a reply, received an error of the ClientApp: {reply.error.reason}."
            )
        return reply.content

    def _load(self) -> ClientApp:
        app = self._project.load("clientapp")
        if not isinstance(app, ClientApp):
            raise FlowerAppError(
                f"Expected a ClientApp in {self._project.folder}, received {type(app).__name__}."
            )
        return app


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _pack(task: str, state: RecordDict) -> bytes:
    return task.encode() + b"\n" + flower_records.encode(state)


def _unpack(data: bytes) -> tuple[str, RecordDict]:
    task, _, state = data.partition(b"\n")
    try:
        return task.decode(), flower_records.decode(state)
    except (TensorsError, UnicodeDecodeError):
        return "", RecordDict()
