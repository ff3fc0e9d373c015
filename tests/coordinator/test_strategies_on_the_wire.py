"""Strategies over a real broker: the tensors come in another order than they were sent, and none may mind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hedgerow.coordinator.config import StrategyConfig

Fixture = Any
PRIVATE = {"noise_multiplier": 0.0, "num_sampled_clients": 7, "clipping_norm": 0.5}
CASES = {
    "FedAvgM": StrategyConfig(name="FedAvgM", arguments={"server_momentum": 0.9}),
    "QFedAvg": StrategyConfig(name="QFedAvg", arguments={"client_learning_rate": 0.1}),
    "FedYogi": StrategyConfig(name="FedYogi"),
    "Bulyan": StrategyConfig(name="Bulyan", arguments={"num_malicious_nodes": 1}),
    "DP": StrategyConfig(
        name="DifferentialPrivacyServerSideFixedClipping",
        arguments=PRIVATE,
        wrapped=StrategyConfig(name="FedAvgM", arguments={"server_momentum": 0.9}),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_strategy_moves_the_model_in_every_round(case: str, mosquitto: str, make_rig: Fixture) -> None:
    rig = make_rig(mosquitto)
    rig.configure(start_devices=7, minimum_devices=7, rounds=3, strategy=CASES[case])
    rig.start_devices(7)
    assert rig.finish(rig.start_coordinator()) == 0, rig.log[-2000:]
    journal = rig.journal()
    records = journal.rounds()
    first = journal.phase(1, "train").weights
    journal.close()
    assert [record.failure for record in records] == ["", "", ""], rig.log[-2000:]
    assert len({first.sha256, *(record.weights.sha256 for record in records)}) == 4
    if case == "DP":
        # Each round moves the model by the clipping norm at most, and momentum repeats it in part.
        moved = np.concatenate(
            [
                (
                    rig.final["dense/kernel"] - np.linspace(-1, 1, 40_000, dtype=np.float32).reshape(2, -1)
                ).ravel(),
                rig.final["dense/bias"],
            ]
        )
        bound = 0.5 * (1 + 1.9 + 2.71)
        assert 0.1 < np.linalg.norm(moved) <= bound * 1.001
