"""What really crosses a broker during rounds, held against docs/asyncapi.yaml."""

from __future__ import annotations

import json
import queue
import re
from contextlib import closing
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from hedgerow.protocol.link import Broker, Connected, LinkEvent, MqttLink, Received

Fixture = Any
DOCUMENT = yaml.safe_load((Path(__file__).parents[2] / "docs" / "asyncapi.yaml").read_text())


def channel_of(topic: str) -> tuple[str, Any]:
    for name, channel in DOCUMENT["channels"].items():
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", channel["address"]), topic):
            return name, channel["messages"][name]
    raise AssertionError(f"no channel for {topic}")


def check(topic: str, payload: bytes) -> str:
    name, message = channel_of(topic)
    assert topic.count("/") <= 7
    assert len(payload) <= 128 * 1024
    if name == "blob":
        return name
    if name == "up-chunk":
        length = int.from_bytes(payload[:2], "big")
        payload = payload[2 : 2 + length]
    schema = {**message["payload"], "components": DOCUMENT["components"]}
    jsonschema.validate(json.loads(payload), schema)
    assert json.loads(payload).get("device", "") in (*topic.split("/"), "")
    return name


def test_real_traffic(broker_url: str, make_rig: Fixture) -> None:
    rig = make_rig(broker_url)
    rig.configure(start_devices=3, minimum_devices=3, rounds=1, round_seconds=20.0)
    events: queue.SimpleQueue[LinkEvent] = queue.SimpleQueue()
    name = f"{rig.fleet}-sniffer"
    with closing(
        MqttLink(Broker.from_url(broker_url), client_id=name, will=None, on_event=events.put)
    ) as link:
        assert isinstance(events.get(timeout=10), Connected)
        link.subscribe([f"hedgerow/v1/{rig.fleet}/#"])
        rig.start_devices(2)
        doomed = rig.start_devices(1)
        assert rig.finish(rig.start_coordinator()) == 0, rig.log[-2000:]
        doomed.kill()
        seen = set()
        while True:
            try:
                event = events.get(timeout=1.0)
            except queue.Empty:
                break
            if isinstance(event, Received) and event.payload:
                seen.add(check(event.topic, event.payload))
    expected = {"coordinator", "state", "blob", "up-accepted", "up-update", "up-chunk"}
    assert expected | {"down-task", "down-grant", "down-settled"} <= seen
