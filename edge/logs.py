"""Where the agent's log goes: standard error, or files of a bounded size."""

from __future__ import annotations

import logging
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path

from ..errors import AgentConfigError
from .config import AgentConfig

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def begin_log(config: AgentConfig) -> None:
    """Sends every logger of this process to where the configuration says.

    Raises:
        AgentConfigError: The file cannot be written.
    """
    logging.basicConfig(
        level=config.log_level.upper(), format=FORMAT, handlers=[_handler(config)], force=True
    )


def _handler(config: AgentConfig) -> logging.Handler:
    if not config.log_file:
        return logging.StreamHandler(sys.stderr)
    try:
        Path(config.log_file).parent.mkdir(parents=True, exist_ok=True)
        return RotatingFileHandler(
            config.log_file, maxBytes=config.log_limit_mib << 20, backupCount=config.log_files
        )
    except OSError as error:
        raise AgentConfigError(
            f"Expected a log_file that can be written, received {config.log_file!r}: {error.strerror}.",
            field="log_file",
        ) from error
