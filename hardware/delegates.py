"""Which shared library hands a model's operators to a target's accelerator.

Each exports `tflite_plugin_create_delegate`, TFLite's interface for external delegates, and is installed with
the accelerator's driver, never by us. XNNPACK, the CPU's own, is in every runtime and needs no library. NPUs
that LiteRT reaches through its dispatch libraries alone (MediaTek, Google Tensor) have no such interface.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Delegate:
    """An accelerator's way into the TFLite interpreter.

    Attributes:
        name: The target, or the path that the user gave.
        libraries: File names or paths; the first that can be loaded is taken.
        options: What the library is told.
    """

    name: str
    libraries: tuple[str, ...]
    options: Mapping[str, str] = field(default_factory=dict)


_EDGE_TPU = ("libedgetpu.so.1", "libedgetpu.1.dylib", "edgetpu.dll")
_GPU = ("libtensorflowlite_gpu_delegate.so", "libtensorflowlite_gpu_gl.so")
_BY_PREFIX: dict[str, Delegate] = {
    "coral-edge-tpu": Delegate("coral-edge-tpu", _EDGE_TPU),
    # Arm's driver stack for Linux, as on NXP's i.MX 93.
    "ethos-u": Delegate("ethos-u", ("libethosu_delegate.so",)),
    "android-gpu": Delegate("android-gpu", _GPU),
    "android-npu-qualcomm": Delegate(
        "android-npu-qualcomm", ("libQnnTFLiteDelegate.so",), {"backend_type": "htp"}
    ),
}


def delegate_for(target: str, *, library: str = "") -> Delegate | None:
    """The delegate of a target; None where the CPU does everything.

    Args:
        target: Its name; empty without one.
        library: The user's own choice of library, which then counts alone.
    """
    found = next((one for prefix, one in _BY_PREFIX.items() if target.startswith(prefix)), None)
    if library:
        return Delegate(target or library, (library,), found.options if found is not None else {})
    return found
