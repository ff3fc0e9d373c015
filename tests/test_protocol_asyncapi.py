"""The AsyncAPI document: as committed, as made from the classes, and as what the classes write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from hedgerow.protocol import messages
from hedgerow.protocol.asyncapi import document, to_yaml

COMMITTED = Path(__file__).parents[1] / "docs" / "asyncapi.yaml"


def test_the_committed_document_is_the_one_of_the_classes() -> None:
    assert COMMITTED.read_text() == to_yaml(document()), (
        "python -m hedgerow.protocol.asyncapi > docs/asyncapi.yaml"
    )
    assert yaml.safe_load(COMMITTED.read_text()) == json.loads(json.dumps(document()))


def test_every_kind_has_a_channel_and_every_reference_a_target() -> None:
    made = document()
    assert set(made["channels"]) == {kind.replace("/", "-") for kind in messages.CLASSES} | {"blob"}

    def check(value: Any) -> None:
        if isinstance(value, dict):
            if "$ref" in value:
                target: Any = made
                for part in value["$ref"].removeprefix("#/").split("/"):
                    target = target[part]
            for item in value.values():
                check(item)
        elif isinstance(value, list):
            for item in value:
                check(item)

    check(made)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a-b": [1, {"c": None}]}, "a-b:\n  - 1\n  -\n    c: null\n"),
        ({"1x": {}, "y": []}, '"1x": {}\ny: []\n'),
    ],
)
def test_yaml(value: Any, text: str) -> None:
    assert to_yaml(value) == text
    assert yaml.safe_load(text) == value


def test_a_schema_refuses_what_the_class_refuses() -> None:
    schemas = document()["components"]["schemas"]
    schema = {**schemas["Accepted"], "components": {"schemas": schemas}}
    good = {"kind": "accepted", "device": "d", "incarnation": 1, "counter": 2, "task": "t-1"}
    jsonschema.validate(good, schema)
    for spoilt in ({"device": "D"}, {"incarnation": -1}, {"task": ""}, {"kind": "failed"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(good | spoilt, schema)
