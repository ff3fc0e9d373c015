"""When the device may train: a policy, the conditions, and what the device waits for. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

import msgspec

from ..errors import AgentConfigError

_WINDOW = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


class ReadinessPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What has to hold while the device trains; the table `[readiness]` of `agent.toml`.

    What a machine does not tell (a battery it does not have) is taken as fulfilled.

    Args:
        external_power: Only on external power.
        battery_percent: At least this charge, unless on external power.
        temperature_celsius: At most this in the hottest zone; 0 is any.
        load: At most this load of the other programs per core, averaged over a minute; 0 is any.
        unmetered: Not while the default route is a cellular modem or a dial-up line.
        hours: Windows of the local time of day, as "22:00-06:00"; none is always.
        samples: At least this many samples to train on.
        new_samples: At least this many added since the last training.

    Raises:
        AgentConfigError: A value is outside its range.
    """

    external_power: bool = False
    battery_percent: int = 0
    temperature_celsius: float = 0.0
    load: float = 0.0
    unmetered: bool = False
    hours: tuple[str, ...] = ()
    samples: int = 0
    new_samples: int = 0

    def __post_init__(self) -> None:
        for window in self.hours:
            if not _WINDOW.fullmatch(window):
                raise AgentConfigError(
                    f'Expected windows such as "22:00-06:00" in [readiness] hours, received {window!r}.'
                )
        if not 0 <= self.battery_percent <= 100:
            raise AgentConfigError(
                f"Expected [readiness] battery_percent from 0 to 100, received {self.battery_percent}."
            )
        for name in ("temperature_celsius", "load", "samples", "new_samples"):
            if getattr(self, name) < 0:
                raise AgentConfigError(
                    f"Expected [readiness] {name} of at least 0, received {getattr(self, name)}."
                )


@dataclass(frozen=True, slots=True)
class Conditions:
    """How things are; None for what the machine does not tell.

    Args:
        external_power: Whether it is on external power.
        battery_percent: Charge of the emptiest battery.
        temperature_celsius: Of the hottest zone.
        load: Of the other programs per core, averaged over a minute.
        metered: Whether traffic is likely to cost.
        minute_of_day: Local time.
        samples: To train on.
        new_samples: Added since the last training.
    """

    external_power: bool | None = None
    battery_percent: float | None = None
    temperature_celsius: float | None = None
    load: float | None = None
    metered: bool | None = None
    minute_of_day: int = 0
    samples: int = 0
    new_samples: int | None = None


def waits_for(policy: ReadinessPolicy, conditions: Conditions) -> tuple[str, ...]:
    """What keeps the device from training, in words; nothing when it may."""
    battery, heat, load = conditions.battery_percent, conditions.temperature_celsius, conditions.load
    new = conditions.new_samples
    on_power = conditions.external_power is not False
    rows = (
        (policy.external_power and not on_power, "external power"),
        (
            battery is not None and battery < policy.battery_percent and not conditions.external_power,
            f"battery of {policy.battery_percent} %, has {battery} %",
        ),
        (
            heat is not None and 0 < policy.temperature_celsius < heat,
            f"at most {policy.temperature_celsius:g} °C, has {heat}",
        ),
        (
            load is not None and 0 < policy.load < load,
            f"load of at most {policy.load:g}, has {load}",
        ),
        (policy.unmetered and conditions.metered is True, "an unmetered network"),
        (
            bool(policy.hours) and not any(_within(one, conditions.minute_of_day) for one in policy.hours),
            f"the hours {', '.join(policy.hours)}",
        ),
        (conditions.samples < policy.samples, f"{policy.samples} samples, has {conditions.samples}"),
        (new is not None and new < policy.new_samples, f"{policy.new_samples} new samples, has {new}"),
    )
    return tuple(words for lacking, words in rows if lacking)


def _within(window: str, minute: int) -> bool:
    first_hour, first_minute, last_hour, last_minute = (int(part) for part in re.split("[:-]", window))
    first, last = first_hour * 60 + first_minute, last_hour * 60 + last_minute
    # A window may go through midnight.
    return first <= minute < last if first <= last else minute >= first or minute < last
