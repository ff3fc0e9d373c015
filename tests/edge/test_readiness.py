"""When the device may train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hedgerow.edge.conditions import probe
from hedgerow.edge.readiness import Conditions, ReadinessPolicy, waits_for
from hedgerow.edge.sample_policy import SamplePolicy
from hedgerow.edge.sample_store import SampleStore
from hedgerow.errors import AgentConfigError

ALL = ReadinessPolicy(
    external_power=True, battery_percent=50, temperature_celsius=70.0, load=0.5, unmetered=True,
    hours=("22:00-06:00", "12:00-13:00"), samples=100, new_samples=10,
)  # fmt: skip
GOOD: dict[str, Any] = {
    "external_power": True, "battery_percent": 20.0, "temperature_celsius": 70.0, "load": 0.5,
    "metered": False,
    "minute_of_day": 5 * 60 + 59, "samples": 100, "new_samples": 10,
}  # fmt: skip


def test_a_device_with_all_it_needs_waits_for_nothing() -> None:
    assert waits_for(ALL, Conditions(**GOOD)) == ()
    assert waits_for(ReadinessPolicy(), Conditions()) == ()


@pytest.mark.parametrize(
    ("change", "reasons"),
    [
        ({"external_power": False}, ("external power", "battery of 50 %, has 20.0 %")),
        ({"external_power": None, "battery_percent": None}, ()),
        ({"temperature_celsius": 70.1}, ("at most 70 °C, has 70.1",)),
        ({"temperature_celsius": None, "load": None, "metered": None, "new_samples": None}, ()),
        ({"load": 0.51}, ("load of at most 0.5, has 0.51",)),
        ({"metered": True}, ("an unmetered network",)),
        ({"samples": 99}, ("100 samples, has 99",)),
        ({"new_samples": 9}, ("10 new samples, has 9",)),
        ({"minute_of_day": 6 * 60}, ("the hours 22:00-06:00, 12:00-13:00",)),
        ({"minute_of_day": 0}, ()),
        ({"minute_of_day": 22 * 60}, ()),
        ({"minute_of_day": 12 * 60 + 30}, ()),
        ({"minute_of_day": 13 * 60}, ("the hours 22:00-06:00, 12:00-13:00",)),
    ],
)
def test_what_is_lacking_is_said(change: dict[str, Any], reasons: tuple[str, ...]) -> None:
    assert waits_for(ALL, Conditions(**(GOOD | change))) == reasons


@pytest.mark.parametrize(
    "fields", [{"hours": ("6-22",)}, {"hours": ("24:00-25:00",)}, {"battery_percent": 101}, {"load": -1.0}]
)
def test_a_policy_outside_its_range_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(AgentConfigError, match=next(iter(fields))):
        ReadinessPolicy(**fields)


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


BATTERY = "POWER_SUPPLY_TYPE=Battery\nPOWER_SUPPLY_STATUS=Discharging\nPOWER_SUPPLY_CAPACITY={}\n"
ROUTES = (
    "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n"
    "{}\t00000000\t0101A8C0\t3\t0\t0\t0\t00000000\n"
)


def test_the_machine_is_read_as_linux_describes_it(tmp_path: Path) -> None:
    write(tmp_path, {
        "sys/class/power_supply/AC/uevent": "POWER_SUPPLY_TYPE=Mains\nPOWER_SUPPLY_ONLINE=0\n",
        "sys/class/power_supply/BAT0/uevent": BATTERY.format(81),
        "sys/class/power_supply/BAT1/uevent": BATTERY.format(64),
        "sys/class/power_supply/mouse/uevent": BATTERY.format(3) + "POWER_SUPPLY_SCOPE=Device\n",
        "sys/class/thermal/thermal_zone0/temp": "48312\n",
        "sys/class/thermal/thermal_zone1/temp": "61000\n",
        "sys/class/thermal/cooling_device0/type": "Fan\n",
        "sys/class/net/eth0/uevent": "INTERFACE=eth0\n",
        "proc/net/route": ROUTES.format("eth0"),
        "proc/loadavg": "0.00 0.10 0.20 1/200 999\n",
    })  # fmt: skip
    found = probe(tmp_path / "samples", root=tmp_path)
    assert (found.external_power, found.battery_percent, found.temperature_celsius) == (False, 64.0, 61.0)
    assert (found.metered, found.load, found.samples, found.new_samples) == (False, 0.0, 0, None)


@pytest.mark.parametrize(
    ("interface", "uevent", "metered"),
    [("wwan0", "INTERFACE=wwan0\nDEVTYPE=wwan\n", True), ("cdc0", "DEVTYPE=wwan\n", True), ("ppp0", "", True),
     ("wlan0", "DEVTYPE=wlan\n", False)],
)  # fmt: skip
def test_a_modem_is_metered(interface: str, uevent: str, metered: bool, tmp_path: Path) -> None:
    route = {"proc/net/route": ROUTES.format(interface), f"sys/class/net/{interface}/uevent": uevent}
    write(tmp_path, route)
    assert probe(tmp_path, root=tmp_path).metered is metered


def test_a_machine_that_tells_nothing_keeps_nobody_waiting(tmp_path: Path) -> None:
    conditions = probe(tmp_path / "samples", root=tmp_path)
    policy = ReadinessPolicy(external_power=True, battery_percent=99, temperature_celsius=1.0, unmetered=True)
    assert waits_for(policy, conditions) == ()


def test_this_machine_can_be_read() -> None:
    conditions = probe(Path("/nonexistent"))
    assert conditions.load is not None
    assert 0 <= conditions.minute_of_day < 24 * 60


def test_new_samples_count_from_the_last_training(tmp_path: Path) -> None:
    with SampleStore(tmp_path, policy=SamplePolicy(test_fraction=0.0)) as store:
        store.add_many(np.zeros((7, 2), np.float32), np.zeros(7, np.int32))
    assert probe(tmp_path).new_samples == 7
    assert probe(tmp_path, trained_at=5).new_samples == 2
