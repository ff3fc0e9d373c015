"""Runs a stock Flower ServerApp over the fleet, from where it was if it was stopped."""

from __future__ import annotations

import contextlib
import logging
import random
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from flwr.app import Context, RecordDict
from flwr.serverapp import ServerApp

from ..errors import FlowerAppError, HedgerowError
from ..protocol.blobs import BlobStore
from ..protocol.link import Broker
from ..protocol.messages import BLOB_LIMIT_BYTES, CONFIG_BYTES_AT_MOST, travels
from ..protocol.topics import check_name
from . import flower
from .events import Listener
from .flower_grid import FleetGrid
from .folder_lock import locked
from .intake import Intake
from .journal import Journal
from .phase import Surroundings
from .postbox import Postbox
from .wire import open_exchange

JOURNAL = "journal.sqlite"
logger = logging.getLogger(__name__)


class FlowerRunConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How a ServerApp is run.

    Args:
        broker: `mqtt://` or `mqtts://` address.
        fleet: `[a-z0-9-]{1,48}`.
        folder: The run's journal, messages and answers.
        uploads: How many devices may upload at once.
        offline_seconds: A device that is offline for so long counts as failed.
        answer_bytes_at_most: No answer is larger.
    """

    broker: str
    fleet: str
    folder: Path
    uploads: Annotated[int, msgspec.Meta(ge=1)] = 8
    offline_seconds: Annotated[float, msgspec.Meta(gt=0)] = 60.0
    answer_bytes_at_most: Annotated[int, msgspec.Meta(ge=1)] = BLOB_LIMIT_BYTES

    def __post_init__(self) -> None:
        check_name(self.fleet, what="fleet name")
        Broker.from_url(self.broker)


class FlowerStopped(BaseException):
    """The run is to stop; not an `Exception`, so that the app does not swallow it."""


@dataclass(frozen=True, slots=True)
class FlowerRun:
    """One run of a ServerApp.

    Args:
        project: The app.
        config: How it is run.
        listener: Told what happens, in a thread of ours.
    """

    project: flower.Project
    config: FlowerRunConfig
    listener: Listener

    def run(self, *, fresh: bool = False) -> bool:
        """Runs the app to its end, or goes on with the run that was stopped.

        Args:
            fresh: Whether to forget a run that was stopped.

        Returns:
            Whether this went on with a run that was stopped.

        Raises:
            FlowerAppError: The app has raised an error, or its configuration cannot be sent.
            CoordinatorConflictError: Another coordinator serves the fleet, or uses the folder.
            BrokerError: The broker is not there, at the very first start.
            FlowerStopped: Raised by a signal handler; the next start goes on here.
        """
        folder = self.config.folder
        if not travels(self.project.config):
            raise FlowerAppError(
                f"Expected a run configuration of finite numbers and texts, {CONFIG_BYTES_AT_MOST} bytes"
                f" together, received {str(self.project.config)[:200]}."
            )
        with locked(folder):
            if fresh or not (folder / JOURNAL).exists():
                forget(folder)
            with contextlib.ExitStack() as stack:
                journal = Journal(folder)
                stack.callback(journal.close)
                resumed = journal.phase(1, "messages") is not None
                self._with_journal(journal, stack)
            forget(folder)
        return resumed

    def _with_journal(self, journal: Journal, stack: contextlib.ExitStack) -> None:
        config, project = self.config, self.project
        store, intake = BlobStore(config.folder / "blobs"), Intake(config.folder / "answers")
        exchange = open_exchange(stack, config.broker, config.fleet, journal=journal, store=store)
        around = Surroundings(
            exchange=exchange, journal=journal, intake=intake, listener=self.listener, stopping=lambda: False
        )
        postbox = stack.enter_context(
            Postbox(
                around,
                store,
                app=project.name,
                uploads=config.uploads,
                offline_seconds=config.offline_seconds,
                answer_bytes_at_most=config.answer_bytes_at_most,
            )
        )
        run_id = int(journal.run(), 16)
        grid = FleetGrid(
            postbox, journal, intake, app=project.name, run_id=run_id, run_config=dict(project.config)
        )
        context = Context(
            run_id=run_id, node_id=0, node_config={}, state=RecordDict(), run_config=dict(project.config)
        )
        seed_generators(journal.entropy())
        app = project.load("serverapp")
        if not isinstance(app, ServerApp):
            raise FlowerAppError(f"Expected a ServerApp in {project.folder}, received {type(app).__name__}.")
        seed_loaded_frameworks(journal.entropy())
        _call(lambda: app(grid, context))


def _call(app: Callable[[], Any]) -> None:
    try:
        app()
    except HedgerowError:
        raise
    except Exception as error:
        logger.exception("the ServerApp has raised an error")
        raise FlowerAppError(
            f"Expected the ServerApp to end, received {type(error).__name__}: {error}."
        ) from error


def seed_generators(entropy: str) -> None:
    """The generators that apps draw from: as they were, when the app is run once more."""
    random.seed(f"{entropy}/app")
    np.random.seed(random.getrandbits(32))


def seed_loaded_frameworks(entropy: str) -> None:
    """The same for a framework that the app has imported; one that seeds itself has the last word."""
    seed = random.Random(f"{entropy}/frameworks").getrandbits(31)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(seed)
    if tensorflow := sys.modules.get("tensorflow"):
        tensorflow.random.set_seed(seed)


def forget(folder: Path) -> None:
    """Removes what a run that is over, or is not wanted any more, has left behind: the journal first."""
    (folder / JOURNAL).unlink(missing_ok=True)
    for path in folder.glob(f"{JOURNAL}*"):
        path.unlink()
    for name in ("blobs", "answers"):
        shutil.rmtree(folder / name, ignore_errors=True)
