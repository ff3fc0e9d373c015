"""Every target file is read, complete, and named like its file."""

from __future__ import annotations

from importlib import resources

import pytest

from hedgerow.errors import TargetError
from hedgerow.hardware import targets, vela
from hedgerow.hardware.targets import Target


@pytest.mark.parametrize("name", targets.names())
def test_a_target_is_read(name: str) -> None:
    target = targets.load(name)
    assert target.name == name
    assert target.title and target.runtimes and target.kinds
    if target.accelerator is not None and target.accelerator.compiler == "vela":
        assert vela._CONFIGURATION.fullmatch(target.accelerator.configuration)
        assert target.compiled


def test_the_files_are_part_of_the_package() -> None:
    assert resources.files("hedgerow.hardware.targets").joinpath("ethos-u55-128.toml").is_file()


def test_an_unknown_target_is_an_error_with_the_names() -> None:
    with pytest.raises(TargetError, match=r"ethos-u55-128.*'toaster'"):
        targets.load("toaster")
    with pytest.raises(TargetError):
        targets.load("../target")


def test_a_target_checks_itself() -> None:
    with pytest.raises(TargetError, match="a-z0-9"):
        Target(name="Bad Name", title="", runtimes=("x",), kinds=("int8",))
    with pytest.raises(TargetError, match="runtimes and kinds"):
        Target(name="empty", title="", runtimes=(), kinds=())
