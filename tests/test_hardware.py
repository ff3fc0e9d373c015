"""Vela, the inference of quantized files, and this machine."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path

import keras
import numpy as np
import pytest

from hedgerow.errors import CompilerError, TensorError
from hedgerow.hardware import machine, vela
from hedgerow.hardware.compilation import CpuOperator
from hedgerow.hardware.inference import Inference, dequantize, quantize
from hedgerow.hardware.interpreter import TensorSpec
from hedgerow.quantization import Converter

INT8 = TensorSpec((1, 4), np.dtype(np.int8), scale=0.5, zero_point=-10)


def test_numbers_are_quantized_by_tflites_definition() -> None:
    # real / 0.5 - 10, half to even: 0.25 -> 0.5 -> 0, 0.75 -> 1.5 -> 2; beyond int8 clipped.
    values = np.array([0.0, 0.25, 0.75, -1.0, 1000.0, -1000.0], np.float32)
    np.testing.assert_array_equal(quantize(values, INT8), np.array([-10, -10, -8, -12, 127, -128], np.int8))
    integers = np.array([-10, -8, 127], np.int8)
    np.testing.assert_array_equal(dequantize(integers, INT8), np.float32([0.0, 1.0, 68.5]))


def test_a_tensor_without_quantization_is_only_cast() -> None:
    plain = TensorSpec((1,), np.dtype(np.float32))
    np.testing.assert_array_equal(quantize(np.array([1.5]), plain), np.float32([1.5]))
    np.testing.assert_array_equal(dequantize(np.float32([1.5]), plain), np.float32([1.5]))


def test_vela_says_what_it_cannot_do(tmp_path: Path) -> None:
    with pytest.raises(CompilerError, match="ethos-u55-128"):
        vela.compile(tmp_path / "x.tflite", "ethos-u99", tmp_path)
    with pytest.raises(CompilerError, match="does not exist"):
        vela.compile(tmp_path / "x.tflite", "ethos-u55-128", tmp_path)
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(b"\x00" * 100)
    with pytest.raises(CompilerError, match=r"could not compile 'broken\.tflite'"):
        vela.compile(broken, "ethos-u55-128", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_vela_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(b"\x00" * 100)
    with pytest.raises(CompilerError):
        vela.compile(broken, "ethos-u55-128", tmp_path)
    assert capfd.readouterr() == ("", "")


def test_a_report_of_vela_is_read() -> None:
    text = (
        "Warning (supported operators) operator: REVERSE_V2, ofm: 'a/ReverseV2'\n"
        "Reason: Unsupported reverse mask.\nAxis attribute is not supported.\n\n"
        "Network summary for m\nCPU operators = 1 (2.5%)\nNPU operators = 39 (97.5%)\n"
    )
    summary = {
        "cycles_total": "1000.0",
        "inference_time": "2e-06",
        "sram_memory_used": "1.5",
        "on_chip_flash_memory_used": "0.0",
        "off_chip_flash_memory_used": "8.25",
        "dram_memory_used": "0.0",
        "nn_macs": "77",
    }
    report = vela._report(text, summary, Path("m_vela.tflite"))
    assert (report.npu_percent, report.cycles, report.macs) == (97.5, 1000, 77)
    assert (report.inference_ms, report.sram_kib, report.flash_kib) == (pytest.approx(0.002), 1.5, 8.25)
    reason = "Unsupported reverse mask. Axis attribute is not supported."
    assert report.cpu_operators == (CpuOperator("REVERSE_V2", "a/ReverseV2", reason),)


def test_this_machine_is_described_without_importing_a_runtime() -> None:
    found = machine.probe()
    assert (found.arch, found.python) == (platform.machine(), platform.python_version())
    assert found.cores >= 1
    assert found.memory_mib > 100
    assert found.runtimes["ai-edge-litert"] == importlib.metadata.version("ai-edge-litert")


def test_examples_of_another_shape_are_refused(converter: Converter) -> None:
    network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    file = converter.convert(network, "float32")
    with Inference(file, runtime="litert") as inference, pytest.raises(TensorError, match=r"\(2, 5\)"):
        inference.predict(np.zeros((2, 5), np.float32))
