"""Files that Hedgerow did not make, whole or damaged, through every command and every runtime."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from hedgerow.cli import app
from hedgerow.errors import HedgerowError, ModelFileError
from hedgerow.hardware import benchmark, execution, fitness, micro, targets, verification
from hedgerow.hardware.graph import read_graphs
from hedgerow.hardware.inspection import inspect_file, inspect_graphs

REFERENCES = sorted((Path(__file__).parent / "data" / "mlperf-tiny").glob("*.tflite"))
# Multiply-accumulates that MLPerf Tiny's authors and Vela give for the reference models, in millions.
PUBLISHED = {
    "ad01_int8": 0.264, "kws_ref_model": 2.66, "pretrainedResnet_quant": 12.5, "vww_96_int8": 7.49,
    "ad01_fp32": 0.264, "pretrainedResnet": 12.5, "vww_96_float": 7.49,
}  # fmt: skip
INT8 = ("ad01_int8", "kws_ref_model", "pretrainedResnet_quant", "str_ww_ref_model", "vww_96_int8")


def _found() -> dict[str, Path]:
    folder = os.environ.get("HEDGEROW_FOREIGN_FILES")
    found = [*REFERENCES, *(sorted(Path(folder).glob("*.tflite")) if folder else ())]
    spec = importlib.util.find_spec("tflite_micro")
    if spec is not None and spec.submodule_search_locations:
        found += sorted(Path(spec.submodule_search_locations[0]).rglob("*.tflite"))
    return {path.stem: path for path in found}


FILES = _found()


@pytest.mark.parametrize("path", FILES.values(), ids=FILES.keys())
def test_every_file_goes_through_the_rules_of_every_target(path: Path) -> None:
    model = read_graphs(path)
    costs = inspect_graphs(model)
    assert all(cost.flops > 0 and cost.peak_bytes > 0 for cost in costs.signatures.values())
    for name in targets.names():
        found = fitness.check(path, targets.load(name), run=False)
        assert len(found.placements) == sum(len(model.graphs[i].operators) for i in model.reachable(0))
        assert found.runs_as_asked or found.advice
        json.dumps(json.loads(json.dumps(fitness.summary(found), default=str)))


@pytest.mark.parametrize("path", FILES.values(), ids=FILES.keys())
def test_every_file_runs_and_is_measured_on_every_runtime(path: Path) -> None:
    for runtime in (one for one in execution.installed() if one in benchmark.RUNTIMES):
        found = benchmark.attempt(path, runtime=runtime, runs=3, warm_up=1)
        assert isinstance(found, benchmark.Benchmark), found
        assert 0 < found.minimum_ms <= found.p50_ms <= found.maximum_ms


@pytest.mark.parametrize(("name", "millions"), PUBLISHED.items())
def test_the_arithmetic_of_a_published_model_is_the_published_one(name: str, millions: float) -> None:
    (report,) = inspect_file(FILES[name]).signatures.values()
    assert report.flops / 2e6 == pytest.approx(millions, rel=0.01)


@pytest.mark.parametrize("name", INT8)
def test_tflite_micro_computes_what_the_reference_kernels_do(name: str) -> None:
    path = FILES[name]
    if not micro.is_installed():
        pytest.skip("tflite-micro is not installed: it is the extra hedgerow[micro]")
    found = verification.verify_at_random(path, runtime="micro", examples=4)
    assert found.steps is not None
    assert found.steps <= 2.01


@pytest.mark.slow
@pytest.mark.parametrize("name", INT8)
@pytest.mark.parametrize("target", ["ethos-u55-128", "ethos-u85-256", "cortex-m7"])
def test_an_int8_reference_model_runs_wholly_on_the_chip(name: str, target: str) -> None:
    found = fitness.check(FILES[name], targets.load(target))
    assert found.accelerated_percent == 100.0
    assert found.runs_as_asked, found.advice


def test_a_hybrid_file_is_refused_by_tflite_micro_at_its_first_operator() -> None:
    path = FILES["kws_ref_model_float32"]
    if not micro.is_installed():
        pytest.skip("tflite-micro is not installed: it is the extra hedgerow[micro]")
    found = fitness.check(path, targets.load("cortex-m7"))
    assert found.first_fallback is not None
    assert found.first_fallback.operator.index == 0
    assert "Hybrid models are not supported" in found.first_fallback.reason


@pytest.mark.parametrize("path", FILES.values(), ids=FILES.keys())
@settings(max_examples=25)
@given(data=st.data())
def test_a_damaged_file_is_an_error_in_every_command(path: Path, data: st.DataObject) -> None:
    whole = path.read_bytes()
    damaged = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for _ in range(data.draw(st.integers(0, 8))):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    target = targets.load(data.draw(st.sampled_from(targets.names())))
    try:
        inspect_file(bytes(damaged))
        fitness.check(bytes(damaged), target, run=False)
    except ModelFileError as error:
        assert str(error)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", execution.installed())
def test_a_damaged_file_never_takes_the_program_with_it(runtime: str, tmp_path: Path) -> None:
    whole = FILES["ad01_int8"].read_bytes()
    rng = np.random.default_rng(0)
    ends = set()
    for number in range(12):
        damaged = bytearray(whole if number % 3 else whole[: int(rng.integers(200, len(whole)))])
        for place in rng.integers(0, len(damaged), 1 + 4 * (number % 4)):
            damaged[place] ^= 1 << int(rng.integers(0, 8))
        file = tmp_path / f"{number}.tflite"
        file.write_bytes(damaged)
        try:
            model = read_graphs(file)
            inputs = execution.random_inputs(model, examples=1, seed=0)
            execution.execute(file, inputs, runtime=runtime)  # type: ignore[arg-type]
            ends.add("ran")
        except HedgerowError as error:
            assert str(error)
            ends.add("refused")
    assert "refused" in ends


@pytest.mark.parametrize("path", REFERENCES, ids=[path.stem for path in REFERENCES])
def test_the_commands_take_a_reference_model_as_it_is(path: Path) -> None:
    shown = CliRunner().invoke(app, ["inspect", str(path)])
    assert shown.exit_code == 0, shown.output
    assert "operations a run" in shown.output
    checked = CliRunner().invoke(app, ["check", str(path), "--target", "linux-x86-64-litert", "--json"])
    assert checked.exit_code == 0, checked.output
    assert json.loads(checked.stdout)["runs_as_asked"] is True
    timed = CliRunner().invoke(app, ["bench", str(path), "--runs", "3", "--json"])
    assert timed.exit_code == 0, timed.output
    rows = json.loads(timed.stdout)
    assert len(rows) == len([one for one in execution.installed() if one in benchmark.RUNTIMES])
    assert all(0 < row["p50_ms"] <= row["maximum_ms"] for row in rows)
