"""The coordinator is killed at every transition of its journal, and the result is the one without kills."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import numpy as np
import pytest

from hedgerow.coordinator.config import StrategyConfig

Fixture = Any
STRATEGIES = {
    "FedAvg": StrategyConfig(name="FedAvg", arguments={"fraction_train": 0.5}),
    "FedAdam": StrategyConfig(name="FedAdam", arguments={"fraction_train": 0.5}),
    "FedMedian": StrategyConfig(name="FedMedian", arguments={"fraction_train": 0.5}),
    # A clipping norm that moves, moments inside, and noise that is drawn once and never again.
    "private": StrategyConfig(
        name="DifferentialPrivacyServerSideAdaptiveClipping",
        arguments={
            "noise_multiplier": 0.5,
            "num_sampled_clients": 3,
            "initial_clipping_norm": 1.0,
            "clipped_count_stddev": 0.6,
        },
        wrapped=StrategyConfig(name="FedAdam", arguments={"fraction_train": 0.5}),
    ),
}
DEVICES = 6


def run(rig: Fixture, strategy: str, *kill: str) -> None:
    rig.configure(start_devices=DEVICES, minimum_devices=DEVICES, strategy=STRATEGIES[strategy])
    journal = rig.journal()
    # What else would be drawn for each run: with it two runs have the same noise.
    journal.set_fact("entropy", "00" * 32)
    journal.close()
    rig.start_devices(DEVICES)
    assert rig.finish(rig.start_coordinator(*kill)) == 0, rig.log[-3000:]


def check_history(rig: Fixture) -> None:
    """Everything that a device finished and that was accepted counts once; nothing else counts."""
    journal = rig.journal()
    counted = [
        update.task
        for record in journal.rounds()
        for phase in ("train", "evaluate")
        for update in journal.updates(record.round, phase)
    ]
    records = [
        journal.phase(record.round, phase) for record in journal.rounds() for phase in ("train", "evaluate")
    ]
    journal.close()
    assert max(Counter(counted).values()) == 1
    finished = {line["task"] for line in rig.history if line["what"] == "finished"}
    accepted = {line["task"] for line in rig.history if line["what"] == "settled" and line["accepted"]}
    refused = [line for line in rig.history if line["what"] == "settled" and not line["accepted"]]
    assert set(counted) <= finished
    assert accepted <= set(counted)
    assert not [line for line in refused if line["task"] in counted], "told of a refusal, and counted"
    assert finished - set(counted) <= {line["task"] for line in refused}, "finished, but neither"
    assert sum(record.devices for record in records if record) == len(counted)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "count", "strategy", "broker"),
    [
        ("after", "2", "FedAvg", "mosquitto"),
        ("before", "3", "FedAvg", "embedded_broker"),
        ("after", "2", "FedAdam", "embedded_broker"),
        ("before", "3", "FedMedian", "mosquitto"),
        ("after", "2", "private", "mosquitto"),
    ],
)
def test_killed_at_every_transition(
    where: str,
    count: str,
    strategy: str,
    broker: str,
    make_rig: Fixture,
    expected_model: Fixture,
    request: pytest.FixtureRequest,
) -> None:
    url = request.getfixturevalue(broker)
    undisturbed, killed = make_rig(url), make_rig(url)
    run(undisturbed, strategy)
    started = time.monotonic()
    run(killed, strategy, where, count)
    kills = Counter((killed.folder / "kills").read_text().split())
    print(f"{sum(kills.values())} kills in {time.monotonic() - started:.0f} s: {dict(kills)}")  # noqa: T201
    assert {"facts", "offers", "phases", "updates", "rounds"} <= kills.keys()
    assert kills["phases"] >= 8, "each of 4 phases is opened, closed and aggregated"
    assert killed.counted() == undisturbed.counted(), "the same devices were sampled"
    assert [len(devices) for devices in killed.counted()] == [DEVICES // 2] * 2
    for name, value in undisturbed.final.items():
        np.testing.assert_array_equal(killed.final[name], value)
    if strategy == "FedAvg":
        total = expected_model(undisturbed.counted())
        np.testing.assert_allclose(killed.final["dense/bias"], total, rtol=1e-6)
    check_history(killed)
    check_history(undisturbed)
