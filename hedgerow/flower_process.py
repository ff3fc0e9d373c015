"""The process that runs a ClientApp: `python -m hedgerow.flower_process APP FOLDER NODE_CONFIG`.

It takes and gives the lines of `hedgerow.edge.training_process`, so that the agent stops, restarts and
forgets it as it does with training. It stays a while after an answer: importing an app may take seconds.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from pathlib import Path

import msgspec

from .coordinator import flower_records
from .coordinator.flower import Project
from .coordinator.flower_client import Client
from .edge.assignment import Answer, Assignment, Bench, Completion, Refusal, Usage
from .edge.result import Result
from .edge.training_process import Channel
from .errors import HedgerowError
from .hardware.process import limit_memory, peak_mib, return_freed_memory
from .protocol.blobs import BlobStore

logger = logging.getLogger(__name__)


def answer(assignment: Assignment, client: Client, results: BlobStore) -> Answer:
    """Has the app answer one message, whatever comes of it."""
    task = assignment.task
    try:
        if task.flower is None:
            return _refuse(task.task, "This device answers messages of a Flower app only.")
        started = time.monotonic()
        reply = client.answer(task.flower, task.task, Path(assignment.weights).read_bytes())
        metrics = flower_records.numbers(reply)
        result = Result(
            task=task.task,
            round=task.round,
            num_examples=max(int(metrics.pop("num-examples", 0)), 0),
            metrics=dict(list(metrics.items())[:64]),
            weights=results.put(flower_records.encode(reply), codec="flower"),
            seconds=time.monotonic() - started,
        )
        return Completion(result=result, usage=_usage())
    except HedgerowError as error:
        logger.exception("no answer to %s", task.task)
        return _refuse(task.task, str(error.args[0]))
    except MemoryError:
        return _refuse(task.task, "The app needs more memory than there is.")
    except Exception as error:
        logger.exception("unexpected error in %s", task.task)
        return _refuse(task.task, f"{type(error).__name__}: {error}")


def _refuse(task: str, reason: str) -> Refusal:
    return Refusal(task=task, reason=reason, usage=_usage())


def _usage() -> Usage:
    return Usage(peak_mib=round(peak_mib(), 1))


def main() -> None:
    """Answers until the agent closes the line, or asks for nothing for a while."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = Channel()
    if not (line := channel.receive()):
        return
    bench = msgspec.json.decode(line, type=Bench)
    logging.basicConfig(
        stream=sys.stderr,
        level=bench.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    os.nice(bench.niceness)
    if bench.memory_limit_mib:
        limit_memory(bench.memory_limit_mib)
    folder, state, node_config = sys.argv[1:]
    client = Client(Project.read(Path(folder)), Path(state), json.loads(node_config))
    results = BlobStore(Path(bench.results))
    while line := channel.receive():
        reply = answer(msgspec.json.decode(line, type=Assignment), client, results)
        return_freed_memory()
        channel.send(reply)


if __name__ == "__main__":
    main()
