"""Fixtures that tests of several rooms share."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from hedgerow.broker import free_port
from hedgerow.processes import wait_for_port

if TYPE_CHECKING:
    from hedgerow.quantization import Converter

Tensors = dict[str, np.ndarray]
Calls = Sequence[tuple[str, Tensors]]
DeviceRun = Callable[[str, Sequence[tuple[Path, Calls]]], list[list[Tensors]]]


# A busy machine is no reason to fail: what a test has to prove does not depend on time.
settings.register_profile("hedgerow", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("hedgerow")


@pytest.fixture
def device_run(tmp_path_factory: pytest.TempPathFactory) -> DeviceRun:
    """Runs calls of model files on a runtime, in one process of its own; returns each call's outputs."""

    def run(runtime: str, cases: Sequence[tuple[Path, Calls]]) -> list[list[Tensors]]:
        folder = tmp_path_factory.mktemp("device")
        listing = []
        for case, (file, calls) in enumerate(cases):
            listing.append({"file": str(file), "signatures": [signature for signature, _ in calls]})
            for call, (_, inputs) in enumerate(calls):
                np.savez(folder / f"{case}_{call}.npz", **inputs)
        (folder / "cases.json").write_text(json.dumps(listing))
        script = Path(__file__).with_name("device_process.py")
        command = [sys.executable, str(script), runtime, str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=dict(os.environ))
        if done.returncode != 0:
            progress = (folder / "progress").read_text() if (folder / "progress").exists() else "at start"
            pytest.fail(f"{runtime} ended with {done.returncode} in {progress}: {done.stderr[-2000:]}")
        outputs = []
        for case, (_, calls) in enumerate(cases):
            outputs.append([dict(np.load(folder / f"{case}_{call}.out.npz")) for call in range(len(calls))])
        return outputs

    return run


@contextmanager
def _running(command: list[str], port: int) -> Iterator[str]:
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        assert wait_for_port(port, process), f"{command[0]} did not start"
        yield f"mqtt://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture(scope="session")
def embedded_broker() -> Iterator[str]:
    """The address of the embedded broker."""
    port = free_port()
    with _running([sys.executable, "-m", "hedgerow.broker", "--port", str(port)], port) as url:
        yield url


@pytest.fixture(scope="session")
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real Mosquitto."""
    program = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if program is None:
        pytest.skip("mosquitto is not installed")
    port = free_port()
    config = tmp_path_factory.mktemp("mosquitto") / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n")
    with _running([program, "-c", str(config)], port) as url:
        yield url


@pytest.fixture(params=["embedded_broker", "mosquitto"])
def broker_url(request: pytest.FixtureRequest) -> str:
    """The address of each broker in turn."""
    url: str = request.getfixturevalue(request.param)
    return url


@pytest.fixture(scope="session")
def converter() -> Iterator[Converter]:
    """One converter process for all tests: it takes seconds to start."""
    from hedgerow.quantization import Converter

    with Converter() as running:
        yield running
