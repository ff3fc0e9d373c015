"""What really crosses a broker during rounds and a Flower run, held against docs/asyncapi.yaml."""

from __future__ import annotations

from typing import Any

Fixture = Any


def test_real_traffic(broker_url: str, make_rig: Fixture, sniff: Fixture) -> None:
    rig = make_rig(broker_url)
    rig.configure(start_devices=3, minimum_devices=3, rounds=1, round_seconds=20.0)
    with sniff(rig) as seen:
        rig.start_devices(2)
        doomed = rig.start_devices(1)
        assert rig.finish(rig.start_coordinator()) == 0, rig.log[-2000:]
        doomed.kill()
    expected = {"coordinator", "state", "blob", "up-accepted", "up-update", "up-chunk"}
    assert expected | {"down-task", "down-grant", "down-settled"} <= seen.keys()
