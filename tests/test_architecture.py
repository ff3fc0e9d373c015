"""What the rooms may import, held by reading every import and by starting the agent in a fresh process."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "models": set(),
    "hardware": set(),
    "protocol": set(),
    "quantization": {"models", "hardware", "protocol"},
    "edge": {"protocol", "hardware"},
    "coordinator": {"protocol", "hardware", "quantization", "models"},
}
# One file knows each of these; a change of theirs is a change in one place.
ONLY_IN = {
    "paho": "protocol/link.py",
    "tflite_runtime": "hardware/interpreter.py",
    "ai_edge_litert": "hardware/interpreter.py",
    "ethosu": "hardware/vela.py",
    "flwr.common": "coordinator/flower.py",
    "flwr.supercore": "coordinator/flower.py",
    "flwr.proto": "coordinator/flower.py",
    "flwr.server": "coordinator/flower.py",
    "tflite_micro": "hardware/micro.py",
    "xmos_ai_tools": "hardware/xcore_host.py",
}
LEARNING = ("tensorflow", "keras", "flwr", "grpc", "torch")
FORBIDDEN_ON_DEVICES = (*LEARNING, "typer", "rich", "sqlalchemy", "matplotlib")


def files(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """The modules that a file imports, in full: relative ones as `hedgerow...`."""
    package = ("hedgerow", *path.relative_to(ROOT).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *(node.module or "").split("."))).strip(".")
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def loaded(script: str) -> list[str]:
    """What a script in a fresh process prints as JSON."""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    names: list[str] = json.loads(done.stdout)
    return names


def inside(module: str, of: str) -> bool:
    return module == of or module.startswith(of + ".")


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_rooms_import_one_way(room: str) -> None:
    assert files(room), f"{room} has no files"
    for path in files(room):
        for module in imports(path):
            for other in MAY_IMPORT.keys() - {room} - MAY_IMPORT[room]:
                assert not inside(module, f"hedgerow.{other}"), f"{path} imports {module}"
            assert not inside(module, "hedgerow.cli"), f"{path} imports {module}"


@pytest.mark.parametrize("module", ONLY_IN)
def test_one_file_imports(module: str) -> None:
    users = {
        str(path.relative_to(ROOT))
        for room in MAY_IMPORT
        for path in files(room)
        if any(inside(imported, module) for imported in imports(path))
    }
    assert users <= {ONLY_IN[module]}


@pytest.mark.parametrize("room", ["edge", "protocol", "hardware"])
def test_devices_do_without_tensorflow_and_flower(room: str) -> None:
    for path in files(room):
        for module in imports(path):
            assert not any(inside(module, name) for name in FORBIDDEN_ON_DEVICES), f"{path} imports {module}"


@pytest.mark.parametrize("module", ["hedgerow.edge", "hedgerow.edge.agent", "hedgerow.protocol.link"])
def test_a_fresh_process_with_the_agent_has_loaded_none_of_them(module: str) -> None:
    script = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    assert not [name for name in loaded(script) for bad in FORBIDDEN_ON_DEVICES if inside(name, bad)]


def test_the_import_name_is_made_of_relative_links() -> None:
    for room in MAY_IMPORT:
        link = ROOT / "hedgerow" / room
        assert link.is_symlink()
        assert link.readlink() == Path("..") / room


def test_the_command_line_starts_without_anything_heavy() -> None:
    script = "import json, sys, hedgerow.cli; print(json.dumps(sorted(sys.modules)))"
    heavy = ("tensorflow", "keras", "flwr", "matplotlib", "sqlalchemy", "tflite_runtime", "ai_edge_litert")
    assert not [name for name in loaded(script) if name.split(".")[0] in heavy]
