"""`python -m hedgerow.edge --config agent.toml`: the agent, and nothing that it does not need."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from ..errors import HedgerowError
from ..hardware.process import return_large_memory_at_once
from .agent import Agent
from .config import AgentConfig
from .logs import begin_log


def serve(path: Path, make: Callable[[AgentConfig], Agent] = Agent) -> int:
    """Runs the agent of a configuration file until SIGTERM or SIGINT and returns the exit code."""
    try:
        config = AgentConfig.load(path)
    except HedgerowError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return run_agent(config, make)


def run_agent(config: AgentConfig, make: Callable[[AgentConfig], Agent] = Agent) -> int:
    """Runs the agent that `make` makes of a configuration until SIGTERM or SIGINT; returns the exit code."""
    return_large_memory_at_once()
    try:
        begin_log(config)
        agent = make(config)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: agent.stop())
        signal.signal(signal.SIGUSR1, lambda *_: agent.train_now())
        agent.run()
    except HedgerowError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    except Exception:
        logging.getLogger(__name__).exception("the agent ends: unexpected error")
        return 1
    return 0


def main() -> None:
    """Reads the arguments and leaves with the agent's exit code."""
    parser = argparse.ArgumentParser(prog="python -m hedgerow.edge", description="Runs one Hedgerow agent.")
    parser.add_argument("--config", type=Path, required=True, help="the agent.toml")
    raise SystemExit(serve(parser.parse_args().config))


if __name__ == "__main__":
    main()
