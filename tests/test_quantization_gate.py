"""The gate's ladder on a model that is hard for int8, rung by rung, and the parts that it is made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from hedgerow.errors import GateError, RecipeError
from hedgerow.hardware import fitness, targets
from hedgerow.hardware.graph import read_graphs
from hedgerow.hardware.interpreter import load
from hedgerow.hardware.verification import verify
from hedgerow.models import datasets
from hedgerow.models.datasets import Dataset
from hedgerow.quantization import Converter, Gate, operator_costs, recipes
from hedgerow.quantization.golden import write_golden
from hedgerow.quantization.mixing import float_ends, with_movements
from hedgerow.quantization.ranges import best_range

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def digits() -> tuple[Dataset, Dataset]:
    data = datasets.mnist()
    order = np.random.default_rng(0).permutation(len(data))
    return data.take(order[:1200]), data.take(order[1200:1600])


@pytest.fixture(scope="module")
def trained(digits: tuple[Dataset, Dataset]) -> keras.Model:
    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(8, 3, strides=2, activation="relu", name="strokes"),
            layers.DepthwiseConv2D(3, strides=2, activation="relu", name="shapes"),
            layers.Flatten(),
            layers.Dense(32, activation="relu", name="hidden"),
            layers.Dense(10, activation="softmax", name="head"),
        ]
    )
    network.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")
    network.fit(digits[0].x, digits[0].y, epochs=4, batch_size=32, verbose=0)
    return network


def with_outliers(network: keras.Model) -> keras.Model:
    """The same function in float, but three hidden channels are 200 times as large as the others."""
    copy = keras.models.clone_model(network)
    copy.set_weights(network.get_weights())
    (kernel, bias), (after, constant) = (layer.get_weights() for layer in copy.layers[-2:])
    kernel[:, :3] *= 200
    bias[:3] *= 200
    after[:3] /= 200
    copy.layers[-2].set_weights([kernel, bias])
    copy.layers[-1].set_weights([after, constant])
    return copy


@pytest.mark.slow
def test_the_gate_keeps_the_layers_in_float_that_int8_costs_most(
    trained: keras.Model, digits: tuple[Dataset, Dataset], converter: Converter, tmp_path: Path
) -> None:
    train, test = digits
    network, said = with_outliers(trained), []
    np.testing.assert_allclose(np.asarray(network(test.x)), np.asarray(trained(test.x)), atol=1e-4)
    gate = Gate(
        network,
        calibration=train.x[:200],
        test=(test.x, test.y),
        training=(train.x, train.y),
        converter=converter,
        on_progress=said.append,
    )
    passed = gate.climb()
    tried = [(rung.recipe, rung.passed) for rung in gate.rungs]
    assert tried[:3] == [("int8", False), ("int8-ranges", False), ("mixed", False)]
    assert tried[-1] == ("mixed", True)
    assert gate.rungs[0].drop is not None and gate.rungs[0].drop > 0.1
    assert {cost.layer for cost in gate.costs()[:2]} == {"hidden (3)", "head (4)"}
    assert "hidden (3)" in passed.note and "head (4)" in passed.note
    assert any("operator 1 of 5" in line for line in said)

    graph = read_graphs(gate.files["mixed"]).graphs[0]
    kinds = {one.name: graph.tensors[one.inputs[0]].dtype for one in graph.operators}
    assert kinds["CONV_2D"] == kinds["DEPTHWISE_CONV_2D"] == "int8" and kinds["FULLY_CONNECTED"] == "float32"
    path = tmp_path / "mixed.tflite"
    path.write_bytes(gate.files["mixed"])
    write_golden(tmp_path / "golden.npz", {"mixed": path}, test.x)
    for runtime in ("litert", "tflite"):
        assert verify(path, tmp_path / "golden.npz", runtime=runtime).passed

    # Without the mix the next rungs are climbed: int16 and fine-tuning help, float16 is exact.
    ladder = ("int8", "int16x8", "int8-tuned", "float16")
    assert gate.climb(ladder).recipe == "float16"
    drops = {rung.recipe: rung.drop for rung in gate.rungs}
    assert drops["int16x8"] < drops["int8"] / 2 and drops["int8-tuned"] < drops["int8"] / 2
    assert [line for line in said if line.startswith("fine-tuning, epoch 5 of 5: loss")]
    with pytest.raises(
        GateError, match=r"for a-chip.*int8-tuned with 5 epochs on 1200.*head \(4\)"
    ) as raised:
        gate.climb(ladder[:3], target="a-chip")
    rungs = raised.value.facts["rungs"]
    assert isinstance(rungs, tuple) and [rung.recipe for rung in rungs] == list(ladder[:3])


@pytest.mark.slow
def test_one_loud_example_is_what_better_ranges_are_for(
    trained: keras.Model, digits: tuple[Dataset, Dataset], converter: Converter
) -> None:
    train, test = digits
    calibration = train.x[:200].copy()
    calibration[7] *= 60
    gate = Gate(trained, calibration=calibration, test=(test.x, test.y), converter=converter)
    assert gate.climb().recipe == "int8-ranges"
    drops = [rung.drop for rung in gate.rungs]
    assert drops[0] is not None and drops[1] is not None and drops[0] > 0.01 and drops[1] <= 0.005


@pytest.mark.slow
def test_fine_tuning_is_the_same_each_time(
    trained: keras.Model, digits: tuple[Dataset, Dataset], converter: Converter
) -> None:
    train, test = digits
    files = []
    for _ in range(2):
        gate = Gate(
            trained,
            calibration=train.x[:50],
            test=(test.x[:50], test.y[:50]),
            training=(train.x[:200], train.y[:200]),
            max_drop=1.0,
            converter=converter,
            seed=3,
        )
        gate.climb(("int8-tuned",))
        files.append(gate.files["int8-tuned"])
    assert files[0] == files[1]


@pytest.fixture(scope="module")
def small() -> keras.Model:
    keras.utils.set_random_seed(0)
    given = keras.Input((8, 8, 2))
    x = layers.Conv2D(4, 3, padding="same", activation="relu", name="first")(given)
    y = layers.Conv2D(4, 3, padding="same", name="second")(x)
    x = layers.Flatten()(layers.Add(name="sum")([x, y]))
    return keras.Model(given, layers.Dense(3, name="last")(x))


EXAMPLES = RNG.normal(size=(40, 8, 8, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def calibrated(small: keras.Model, converter: Converter) -> Iterator[bytes]:
    yield converter.calibrate(small, EXAMPLES)


def test_an_operator_that_stays_float_is_float_in_the_file(calibrated: bytes, converter: Converter) -> None:
    operators = read_graphs(calibrated).graphs[0].operators
    names = [read_graphs(calibrated).graphs[0].tensors[one.outputs[0]].name for one in operators]
    assert [one.name for one in operators] == ["CONV_2D", "CONV_2D", "ADD", "RESHAPE", "FULLY_CONNECTED"]
    for place, ends in ((0, ("float32", "int8")), (1, ("int8", "int8")), (4, ("int8", "float32"))):
        data = converter.quantize(calibrated, float_operators=names[place : place + 1])
        graph = read_graphs(data).graphs[0]
        left = [one for one in graph.operators if graph.tensors[one.outputs[0]].dtype == "float32"]
        assert [one.name for one in left if one.name != "DEQUANTIZE"] == [operators[place].name]
        with load(data, runtime="litert") as loaded:
            spec = loaded.signatures()["infer"]
        assert (spec.inputs["x"].dtype.name, spec.outputs["output"].dtype.name) == ends


def test_costs_name_the_operator_that_is_bad(small: keras.Model, converter: Converter) -> None:
    network = keras.models.clone_model(small)
    network.set_weights(small.get_weights())
    kernel, bias = network.get_layer("second").get_weights()
    # A constant of 300 in a channel that the next layer takes away again costs the others seven bits.
    bias[0] = 300.0
    network.get_layer("second").set_weights([kernel, bias])
    costs = operator_costs(converter.calibrate(network, EXAMPLES), EXAMPLES, converter=converter)
    assert len(costs) == 4
    assert {cost.layer for cost in costs[:3]} == {"second (1)", "sum (2)", "fully_connected (4)"}
    assert costs[0].error > 10 * costs[-1].error
    assert all(0 <= cost.agreement <= 1 for cost in costs)


def test_a_reshape_between_float_operators_stays_float_too(calibrated: bytes) -> None:
    graph = read_graphs(calibrated).graphs[0]
    names = [graph.tensors[one.outputs[0]].name for one in graph.operators]
    assert with_movements(graph, (names[2],)) == (names[2], names[3])
    assert with_movements(graph, (names[1],)) == (names[1],)
    assert float_ends(graph, names) == (True, True)
    assert float_ends(graph, names[:1]) == (True, False)


def test_a_range_is_chosen_by_hand() -> None:
    # All examples fill [-1, 1] evenly; the spike in one of 60 does not count.
    values = np.tile(np.linspace(-1, 1, 101, dtype=np.float32), (60, 1))
    spiked = values.copy()
    spiked[5, 0] = 100.0
    low, high = best_range(spiked)
    assert low == -1.0 and 0.9 < high < 2.2
    assert best_range(values) == pytest.approx((-1.0, 1.0))
    assert best_range(np.zeros((3, 4), np.float32)) == (0.0, 0.0)


def test_a_mix_without_names_keeps_the_costliest(small: keras.Model, converter: Converter) -> None:
    data = converter.convert(small, "mixed", calibration=EXAMPLES)
    graph = read_graphs(data).graphs[0]
    computing = [one for one in graph.operators if one.name not in ("DEQUANTIZE", "QUANTIZE", "RESHAPE")]
    assert sum(graph.tensors[one.outputs[0]].dtype == "float32" for one in computing) == 1
    named = replace(recipes.get("mixed"), float_operators=("no-such-operator",))
    assert converter.convert(small, named, calibration=EXAMPLES) == converter.quantize(
        converter.calibrate(small, EXAMPLES)
    )


def test_fine_tuning_is_not_conversion(small: keras.Model, converter: Converter) -> None:
    with pytest.raises(RecipeError, match="fine_tune"):
        converter.convert(small, "int8-tuned", calibration=EXAMPLES)


def test_the_float_operators_of_a_mix_are_reported_on_the_cpu(
    calibrated: bytes, converter: Converter
) -> None:
    graph = read_graphs(calibrated).graphs[0]
    # Vela reports the first convolution, which has a fused activation, as a RELU.
    data = converter.quantize(calibrated, float_operators=[graph.tensors[graph.operators[0].outputs[0]].name])
    found = fitness.check(data, targets.load("ethos-u55-128"))
    where = {one.operator.name: one.where for one in found.placements[:2]}
    assert where == {"CONV_2D": "CPU", "QUANTIZE": "CPU"}
    assert not found.runs_as_asked and found.placements[2].where == "Ethos-U55"
