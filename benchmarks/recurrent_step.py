"""Times a training step of an LSTM in each formulation, and its conversion, against Keras.

    python benchmarks/recurrent_step.py --units 32 64 --steps 50 128

Each contender runs in a process of its own with one thread; all take turns, a few steps at a time, so that
whatever else the machine does meets all of them alike. A ratio is the median of Keras's better way (a
traced graph, or XLA) over the contender's median.

`least` is no training step: it is what every way of writing one in operators has to wait for. The loop
forward has one activation of all gates and nothing is kept, the loop back has factors that cost nothing, then
comes the product that is the weights' gradient. Its ratio is above what a file can reach on that runtime.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

BATCH, FEATURES, CLASSES = 16, 6, 7
STEPS_A_TURN = 30
FORMULATIONS = {"unrolled": 1 << 30, "blocks": 0}


def examples(steps: int) -> dict[str, np.ndarray]:
    """Draws one batch."""
    random = np.random.default_rng(0)
    return {
        "x": random.normal(size=(BATCH, steps, FEATURES)).astype("float32"),
        "y": random.integers(0, CLASSES, BATCH).astype("int32"),
    }


def export(units: int, steps: int, unrolled_steps: int, file: Path) -> float:
    """Writes a file that does one step of plain SGD; returns the seconds to trace, save and convert it."""
    import keras
    import tensorflow as tf

    from hedgerow.models.recurrent import trainable_recurrence

    model = keras.Sequential(
        [keras.Input((steps, FEATURES)), keras.layers.LSTM(units), keras.layers.Dense(CLASSES)]
    )
    module = tf.Module()
    module.weights = [tf.Variable(weight.value) for weight in model.trainable_variables]

    def train(x: tf.Tensor, y: tf.Tensor) -> dict[str, tf.Tensor]:
        values = [tf.convert_to_tensor(weight) for weight in module.weights]
        mapping = list(zip(model.trainable_variables, values, strict=True))
        with trainable_recurrence(unrolled_steps=unrolled_steps):
            with keras.StatelessScope(state_mapping=mapping):
                logits = model(x, training=True)
            spread = tf.math.log(tf.reduce_sum(tf.exp(logits), -1))
            loss = tf.reduce_mean(spread - tf.reduce_sum(tf.one_hot(y, CLASSES) * logits, -1))
            gradients = tf.gradients(loss, values)
        for weight, gradient in zip(module.weights, gradients, strict=True):
            weight.assign_sub(0.01 * gradient)
        return {"loss": loss}

    start = time.perf_counter()
    specs = [tf.TensorSpec([BATCH, steps, FEATURES]), tf.TensorSpec([BATCH], tf.int32)]
    module.train = tf.function(train, input_signature=specs, autograph=False)
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(
            module,
            folder,
            signatures={"train": module.train.get_concrete_function()},
            options=tf.saved_model.SaveOptions(experimental_custom_gradients=False),
        )
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.experimental_enable_resource_variables = True
        file.write_bytes(converter.convert())
    return time.perf_counter() - start


def export_least(units: int, steps: int, file: Path) -> None:
    """Writes a file with the least that a step can be."""
    import tensorflow as tf

    random, width = np.random.default_rng(0), 4 * units
    module = tf.Module()
    module.forward = tf.Variable(random.normal(size=(width, units + FEATURES + 1), scale=0.1).astype("f4"))
    module.backward = tf.Variable(random.normal(size=(units, width), scale=0.1).astype("f4"))

    def train(h, features, to_carry, to_gates, operands, gates):  # type: ignore[no-untyped-def]
        forward, backward = tf.convert_to_tensor(module.forward), tf.convert_to_tensor(module.backward)
        c = dh = dc = h
        for _ in range(steps):
            i, f, o, candidate = tf.split(tf.tanh(forward @ tf.concat([h, features], 0)), 4)
            c = f * c + i * candidate
            h = o * tf.tanh(c)
        for _ in range(steps):
            dc += dh * to_carry
            dh = backward @ (tf.concat([dc, dc, dh, dc], 0) * to_gates)
            dc *= to_carry
        return {"h": h, "dh": dh, "gradient": tf.matmul(operands, gates, transpose_b=True)}

    shapes = {
        "h": [units, BATCH],
        "features": [FEATURES + 1, BATCH],
        "to_carry": [units, BATCH],
        "to_gates": [width, BATCH],
        "operands": [1, units + FEATURES + 1, steps * BATCH],
        "gates": [1, width, steps * BATCH],
    }
    specs = [tf.TensorSpec(shape, name=name) for name, shape in shapes.items()]
    module.train = tf.function(train, input_signature=specs, autograph=False)
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures={"train": module.train.get_concrete_function()})
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.experimental_enable_resource_variables = True
        file.write_bytes(converter.convert())


def keras_step(units: int, steps: int, *, jit: bool) -> Callable[[], object]:
    """Makes Keras's own training step."""
    import keras
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    model = keras.Sequential(
        [keras.Input((steps, FEATURES)), keras.layers.LSTM(units), keras.layers.Dense(CLASSES)]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01), loss, jit_compile=jit)
    batch = examples(steps)
    return lambda: model.train_on_batch(batch["x"], batch["y"])


def device_step(runtime: str, file: str, steps: int) -> Callable[[], object]:
    """Makes the training step of a file."""
    from hedgerow.hardware.interpreter import load

    interpreter = load(Path(file), runtime="litert" if runtime == "litert" else "tflite", num_threads=1)
    random = np.random.default_rng(0)
    inputs = interpreter.signatures()["train"].inputs
    batch = examples(steps)
    if "x" not in inputs:
        batch = {name: random.uniform(0, 0.5, spec.shape).astype("float32") for name, spec in inputs.items()}
    return lambda: interpreter.run("train", batch)


def contend(kind: str, units: int, steps: int, file: str) -> None:
    """Serves as one contender: for each number read, does so many steps and prints their times."""
    if kind.startswith("keras"):
        step = keras_step(units, steps, jit=kind == "keras-xla")
    else:
        step = device_step(kind, file, steps)
    for _ in range(5):
        step()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        times = []
        for _ in range(int(line)):
            start, busy = time.perf_counter(), time.process_time()
            step()
            times += [(time.perf_counter() - start) * 1e3, (time.process_time() - busy) * 1e3]
        sys.stdout.write(" ".join(f"{value:.5f}" for value in times) + "\n")
        sys.stdout.flush()


def compare(units: int, steps: int, files: dict[str, Path], rounds: int) -> dict[str, list[float]]:
    """Lets all contenders take turns; returns their times in ms."""
    contenders = {"keras-graph": ("keras-graph", ""), "keras-xla": ("keras-xla", "")}
    for name, file in files.items():
        contenders |= {f"{runtime}-{name}": (runtime, str(file)) for runtime in ("litert", "tflite")}
    processes = {}
    for name, (kind, file) in contenders.items():
        command = [sys.executable, __file__, "--contend", kind, str(units), str(steps), file]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        processes[name] = process
        while (process.stdout.readline() or "ready\n") != "ready\n":
            pass
    times: dict[str, list[float]] = {name: [] for name in processes}
    for _ in range(rounds):
        for name, process in processes.items():
            process.stdin.write(f"{STEPS_A_TURN}\n")
            process.stdin.flush()
            times[name].extend(map(float, process.stdout.readline().split()))
    for process in processes.values():
        process.stdin.close()
        process.wait(timeout=60)
    return times


def main() -> None:
    """Runs the comparison and prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--units", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--steps", type=int, nargs="+", default=[50, 128])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--contend", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contend:
        kind, units, steps, file = options.contend
        contend(kind, int(units), int(steps), file)
        return
    for units in options.units:
        for steps in options.steps:
            with tempfile.TemporaryDirectory() as folder:
                files = {}
                for name, unrolled_steps in FORMULATIONS.items():
                    files[name] = Path(folder) / f"{name}.tflite"
                    seconds = export(units, steps, unrolled_steps, files[name])
                    size_kib = files[name].stat().st_size / 1024
                    label = f"LSTM({units}) T={steps} {name:9s}"
                    print(f"{label} converted in {seconds:5.1f} s, {size_kib:6.0f} KiB")
                files["least"] = Path(folder) / "least.tflite"
                export_least(units, steps, files["least"])
                times = compare(units, steps, files, options.rounds)
            report(times)


def report(times: dict[str, list[float]]) -> None:
    """Prints medians, and ratios to Keras's better way: of wall time, and of processor time."""
    medians = {
        name: (statistics.median(values[::2]), statistics.median(values[1::2]))
        for name, values in times.items()
    }
    wall, busy = (min(medians[name][i] for name in ("keras-graph", "keras-xla")) for i in (0, 1))
    for name, (own_wall, own_busy) in medians.items():
        best = min(times[name][::2])
        print(
            f"  {name:16s} {own_wall:7.2f} ms (best {best:6.2f}) {wall / own_wall:5.2f} x Keras;"
            f" processor {own_busy:7.2f} ms, {busy / own_busy:5.2f} x Keras",
            flush=True,
        )


if __name__ == "__main__":
    main()
