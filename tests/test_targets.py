"""Every target file is read, complete, and named like its file; so is a user's own, or a clear error."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from hedgerow.errors import TargetError
from hedgerow.hardware import compilers, litert_aot, targets, vela
from hedgerow.hardware.targets import Constraint, Rules, Target

MINE = """
name = "my-board"
title = "My board"
runtimes = ["TFLite Micro"]
kinds = ["int8"]
verify = ["micro"]

[memory]
weights_kib = 256
activations_kib = 64

[cpu]
operators = ["CONV_2D", "SOFTMAX"]

[cpu.constraints]
CONV_2D = { largest_stride = 2, constant = [1] }
"""


@pytest.mark.parametrize("name", targets.names())
def test_a_target_is_read(name: str) -> None:
    target = targets.load(name)
    assert target.name == name
    assert target.title and target.runtimes and target.kinds
    assert target.verify, "how is it verified on this machine?"
    assert target.sources, "where do its rules come from?"
    rules = target.accelerator.rules if target.accelerator else target.cpu
    if target.accelerator is not None:
        assert rules.operators or rules.excluded
        assert rules.dtypes
    # Its compiler is here, or it is said what to install.
    assert isinstance(compilers.missing(target), str)
    if target.accelerator is not None and target.accelerator.compiler == "vela":
        assert vela._CONFIGURATION.fullmatch(target.accelerator.configuration)
        assert target.compiled
    if target.accelerator is not None and target.accelerator.compiler == "litert-aot":
        assert litert_aot.sdk(target.accelerator.configuration)


def test_there_are_the_targets_that_we_promise() -> None:
    assert len(targets.names()) >= 24
    families = ("raspberry-pi-zero-2", "raspberry-pi-3", "raspberry-pi-4", "raspberry-pi-5", "linux-armv7",
                "linux-aarch64", "linux-x86-64", "android-cpu", "android-gpu", "android-npu-qualcomm",
                "android-npu-mediatek", "android-npu-google-tensor", "ios-coreml", "coral-edge-tpu",
                "ethos-u55", "ethos-u65", "ethos-u85", "cortex-m", "xmos-xcore")  # fmt: skip
    for family in families:
        assert any(name.startswith(family) for name in targets.names()), family


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
    with pytest.raises(TargetError, match=r"int16x8.*\['int9'\]"):
        Target(name="typo", title="", runtimes=("x",), kinds=("int9",))
    with pytest.raises(TargetError, match=r"CONV_2D.*CONV2D, RELU7"):
        rules = Rules(operators=("CONV2D",), constraints={"RELU7": Constraint()})
        Target(name="typo", title="", runtimes=("x",), kinds=("int8",), cpu=rules)


def test_a_file_of_ones_own_is_a_target(tmp_path: Path) -> None:
    file = tmp_path / "my-board.toml"
    file.write_text(MINE)
    target = targets.load(str(file))
    assert (target.name, target.memory.weights_kib, target.verify) == ("my-board", 256, ("micro",))
    assert target.cpu.constraints["CONV_2D"].largest_stride == 2
    # Read again when it has changed.
    file.write_text(MINE.replace("256", "512"))
    assert targets.load(str(file)).memory.weights_kib == 512


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('kinds = ["int8"]', "", r"my-board\.toml.*missing required field `kinds`"),
        (
            "weights_kib = 256",
            'weights_kib = "256 KB"',
            r"Expected `int \| null`, got `str` - at `\$\.memory",
        ),
        ("[memory]", "[memroy]", "unknown field `memroy`"),
        ("largest_stride", "biggest_stride", "unknown field `biggest_stride`"),
        ('"SOFTMAX"', '"SOFTMAKS"', r"my-board\.toml.*SOFTMAKS"),
        ('verify = ["micro"]', 'verify = ["toaster"]', "Invalid enum value 'toaster'"),
        ('title = "My board"', "title = ", r"my-board\.toml.*[Ii]nvalid"),
        ('name = "my-board"', 'name = "another"', "Expected the name 'my-board'.*'another'"),
    ],
)
def test_an_error_in_a_file_of_ones_own_says_where(tmp_path: Path, old: str, new: str, words: str) -> None:
    file = tmp_path / "my-board.toml"
    assert old in MINE
    file.write_text(MINE.replace(old, new))
    with pytest.raises(TargetError, match=words) as caught:
        targets.load(str(file))
    assert "docs/targets.md" in str(caught.value)


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="No such file"):
        targets.load(str(tmp_path / "none.toml"))
