"""The agent of a device with a stock Flower ClientApp: the same daemon, another process for the work."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
import sys
import tomllib
from pathlib import Path

from .edge.agent import Agent
from .edge.config import AgentConfig
from .edge.worker import ProcessWorker
from .errors import FlowerAppError, UsageError
from .protocol.messages import FLOWER_APP, Scalar

_PAIR = re.compile(r"""([\w.-]+)=("[^"]*"|'[^']*'|[^\s"']+)""")


def make_agent(config: AgentConfig, app: Path, node_config: dict[str, Scalar]) -> Agent:
    """An agent whose tasks are messages to a ClientApp.

    Flower is loaded in the process that runs the app, and only while there is something to answer.

    Args:
        config: The agent's.
        app: The app's folder.
        node_config: What is this device's alone.

    Raises:
        FlowerAppError: Flower is not installed, or there is no app in the folder.
    """
    if importlib.util.find_spec("flwr") is None:
        raise FlowerAppError(
            "Expected Flower on this device, received none.", remedy="Install hedgerow[flower]."
        )
    name = app_name(app)
    command = [sys.executable, "-m", "hedgerow.flower_process", str(app.absolute())]
    command += [str(Path(config.folder) / "flower"), json.dumps(node_config)]
    return Agent(
        config,
        employ=lambda bench, on_event: ProcessWorker(bench, on_event, command=command),
        runtime=f"flwr {importlib.metadata.version('flwr')}",
        capabilities={FLOWER_APP: name},
    )


def parse_node_config(text: str) -> dict[str, Scalar]:
    """`key=value` pairs with TOML's values, as for `flower-supernode --node-config`, without loading Flower.

    Raises:
        UsageError: They are something else.
    """
    pairs = _PAIR.findall(text)
    try:
        if _PAIR.sub("", text).strip():
            raise ValueError("not all of it is key=value")
        return {key: tomllib.loads(f"value = {value}")["value"] for key, value in pairs}
    except ValueError as error:
        raise UsageError(
            f"Expected pairs such as 'partition-id=0 name=\"x\"', received {text!r}: {error}."
        ) from error


def app_name(app: Path) -> str:
    """The app in a folder as "publisher/name", without loading Flower.

    Raises:
        FlowerAppError: There is none.
    """
    try:
        described = tomllib.loads((app / "pyproject.toml").read_text())
        return f"{described['tool']['flwr']['app']['publisher']}/{described['project']['name']}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FlowerAppError(f"Expected a Flower app in {app}, received: {error!r}.") from error
