"""Runs a Flower app's server, and kills it at transitions of its journal.

    python launch_flower.py APP BROKER FLEET FOLDER RUN_CONFIG [WHERE COUNT]

WHERE and COUNT as for `launch.py`: every life ends by SIGKILL "before" or "after" its write number COUNT to
the journal, until one comes to an end by itself. What it was killed at goes to `kills` in FOLDER's parent.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

# What the app imports is imported once for all its lives.
import sklearn.datasets  # noqa: F401
from launch import LIVES_AT_MOST, end_with_parent, kill_at

from hedgerow.coordinator.flower import Project
from hedgerow.coordinator.flower_run import FlowerRun, FlowerRunConfig


def live(arguments: list[str]) -> int:
    app, broker, fleet, folder, run_config = arguments
    project = Project.read(Path(app), [run_config])
    config = FlowerRunConfig(broker=broker, fleet=fleet, folder=Path(folder))
    FlowerRun(project, config, listener=lambda event: None).run()
    return 0


def main() -> int:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s %(message)s")
    arguments, kill = sys.argv[1:6], sys.argv[6:]
    for _ in range(LIVES_AT_MOST if kill else 1):
        child = os.fork()
        if child == 0:
            end_with_parent()
            code = 1
            try:
                if kill:
                    kill_at(kill[0], int(kill[1]), Path(arguments[3]).with_name("kills"))
                code = live(arguments)
            finally:
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            return os.waitstatus_to_exitcode(status)
    return 99


if __name__ == "__main__":
    sys.exit(main())
