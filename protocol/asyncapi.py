"""The protocol as an AsyncAPI 3.0 document, made from the message classes.

`docs/asyncapi.yaml` is the output of `python -m hedgerow.protocol.asyncapi`. A test holds the two together,
and the document against what really crosses a broker.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import msgspec

from .messages import CLASSES, CONTROL_BYTES_AT_MOST
from .topics import VERSION

FLEET, DEVICE = "{fleet}", "{device}"
_ROOT = f"hedgerow/{VERSION}/{FLEET}"
_RETAINED = {"coordinator", "state"}


def document() -> dict[str, Any]:
    """The whole document."""
    schemas: dict[str, Any] = {}
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    for kind, cls in CLASSES.items():
        (schema,), components = msgspec.json.schema_components(
            [cls], ref_template="#/components/schemas/{name}"
        )
        schemas |= components
        name = kind.replace("/", "-")
        channels[name] = _channel(kind, schema)
        direction = "receive" if kind.startswith("up/") or kind == "state" else "send"
        operations[f"{direction}-{name}"] = {
            "action": direction,
            "channel": {"$ref": f"#/channels/{name}"},
            "summary": _first_line(cls),
            "bindings": {"mqtt": {"qos": 1, "retain": kind in _RETAINED}},
        }
    channels["blob"] = _blob_channel()
    operations["send-blob"] = {
        "action": "send",
        "channel": {"$ref": "#/channels/blob"},
        "summary": "One chunk of a program or a model, once for all devices; an empty payload clears it.",
        "bindings": {"mqtt": {"qos": 1, "retain": True}},
    }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Hedgerow",
            "version": VERSION,
            "description": "What a coordinator and its devices say to each other over MQTT. 'send' and"
            " 'receive' are the coordinator's. See protocol.md for what follows when.",
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {"schemas": schemas},
    }


def _channel(kind: str, schema: dict[str, Any]) -> dict[str, Any]:
    parameters: dict[str, Any] = {"fleet": {"description": "The fleet's name, [a-z0-9-]{1,48}."}}
    if kind == "coordinator":
        address = f"{_ROOT}/all/coordinator"
    else:
        address = f"{_ROOT}/d/{DEVICE}/{kind}"
        parameters["device"] = {"description": "The device's id, [a-z0-9-]{1,48}."}
    message: dict[str, Any] = {"payload": schema, "name": kind}
    if kind == "up/chunk":
        message |= {
            "contentType": "application/octet-stream",
            "description": "Two bytes (big-endian): the length of the header; the header, JSON as in the"
            " payload's schema; the chunk's bytes.",
        }
    else:
        message["description"] = f"At most {CONTROL_BYTES_AT_MOST} bytes. Unknown fields are ignored."
    return {"address": address, "parameters": parameters, "messages": {kind.replace("/", "-"): message}}


def _blob_channel() -> dict[str, Any]:
    return {
        "address": f"{_ROOT}/all/blob/{{sha256}}/{{number}}",
        "parameters": {
            "fleet": {"description": "The fleet's name, [a-z0-9-]{1,48}."},
            "sha256": {"description": "Of the whole blob, 64 lower-case hexadecimal digits."},
            "number": {"description": "Of the chunk, counted from 0."},
        },
        "messages": {
            "blob": {
                "name": "blob",
                "contentType": "application/octet-stream",
                "payload": {"type": "string", "format": "binary"},
            }
        },
    }


def _first_line(cls: Any) -> str:
    return str(cls.__doc__).strip().splitlines()[0]


def to_yaml(value: Any, *, indent: int = 0) -> str:
    """Objects, lists and scalars as YAML; scalars are written as JSON, which YAML contains."""
    pad = "  " * indent
    if isinstance(value, dict) and value:
        lines = []
        for key, item in value.items():
            nested = isinstance(item, dict | list) and item
            text = "\n" + to_yaml(item, indent=indent + 1) if nested else " " + json.dumps(item) + "\n"
            lines.append(f"{pad}{_key(key)}:{text}")
        return "".join(lines)
    if isinstance(value, list) and value:
        return "".join(
            f"{pad}-\n{to_yaml(item, indent=indent + 1)}"
            if isinstance(item, dict | list) and item
            else f"{pad}- {json.dumps(item)}\n"
            for item in value
        )
    return f"{pad}{json.dumps(value)}\n"


def _key(key: str) -> str:
    return (
        key if key.replace("-", "").replace("_", "").isalnum() and not key[0].isdigit() else json.dumps(key)
    )


if __name__ == "__main__":
    sys.stdout.write(to_yaml(document()))
