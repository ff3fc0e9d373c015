"""Every error has what a user needs: a sentence, an exit code, a remedy, and a place in the tree."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

from hedgerow import errors
from hedgerow.errors import HedgerowError, UsageError

ROOT = Path(__file__).parent.parent
CLASSES = [
    cls
    for _, cls in inspect.getmembers(errors, inspect.isclass)
    if issubclass(cls, HedgerowError) and cls is not HedgerowError
]


def test_each_has_a_sentence_a_code_and_a_remedy_of_its_own() -> None:
    for cls in CLASSES:
        assert cls.__doc__ and cls.__doc__.strip().split("\n")[0].endswith("."), cls
        assert "exit_code" in vars(cls), cls
        assert "remedy" in vars(cls) and cls.remedy.endswith("."), cls
        assert 2 <= cls.exit_code <= 99, cls


def test_no_two_share_an_exit_code() -> None:
    codes: dict[int, type[HedgerowError]] = {}
    for cls in CLASSES:
        other = codes.setdefault(cls.exit_code, cls)
        assert other is cls, f"{cls.__name__} and {other.__name__} have exit code {cls.exit_code}"


def test_the_tree_names_every_class() -> None:
    assert errors.__doc__ is not None
    named = set(errors.__doc__.replace("├──", " ").replace("└──", " ").replace("│", " ").split())
    assert {cls.__name__ for cls in CLASSES} <= named


def test_facts_and_remedy() -> None:
    error = UsageError("Expected 1, received 2.", option="--x")
    assert error.option == "--x"  # type: ignore[attr-defined]
    assert str(error) == "Expected 1, received 2. See --help for the values that are accepted."
    assert str(UsageError("No.", remedy="Do this.")) == "No. Do this."


def test_none_is_defined_elsewhere() -> None:
    for path in [*ROOT.glob("*/*.py"), *ROOT.glob("*/*/*.py")]:
        if path.name == "errors.py" or "tests" in path.parts or ".venv" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                bases = {ast.unparse(base).split(".")[-1] for base in node.bases}
                assert not bases & {cls.__name__ for cls in CLASSES} | bases & {"HedgerowError"}, path
