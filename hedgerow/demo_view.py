"""What a person sees while the demo runs: finished stages as lines, running ones and devices as bars."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from .coordinator import events
from .coordinator.records import RoundRecord


class Stage:
    """A stage of the demo while it runs."""

    def __init__(self) -> None:
        self.result = ""


class DemoView:
    """Shows the demo on a console.

    Args:
        console: Where; a pipe gets the lines without the bars.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("[dim]{task.fields[note]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._devices: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    @contextmanager
    def stage(self, title: str) -> Iterator[Stage]:
        """Shows a stage until it is over, then its result."""
        started = time.monotonic()
        task = self._progress.add_task(title, total=None, note="")
        stage = Stage()
        try:
            yield stage
        finally:
            self._progress.remove_task(task)
        seconds = time.monotonic() - started
        line = f"[green]✓[/green] {title}: {stage.result} [dim]({seconds:.1f} s)[/dim]"
        self.console.print(line, highlight=False)

    def show(self, event: events.Event, *, classifies: bool) -> None:
        """Shows what the coordinator tells: of a classifier the accuracy, of anything else the loss."""
        match event:
            case events.PhaseOpened(phase=phase, devices=devices):
                for device in devices:
                    self._set(device, phase, 0.0)
            case events.DeviceProgress(device=device, step=step, fraction=fraction):
                self._set(device, step, fraction)
            case events.UpdateCounted(device=device, num_examples=num_examples):
                self._set(device, f"done, {num_examples} samples", 1.0)
            case events.UpdateRefused(device=device, reason=reason):
                self._set(device, "refused", 0.0)
                self.console.print(f"  [yellow]{device}:[/yellow] {reason}", highlight=False)
            case events.RoundEnded(record=record):
                self.console.print(
                    f"  round {record.round}: {_of_round(record, classifies=classifies)}"
                    f" [dim]({record.seconds:.1f} s, {record.bytes_down / 1e6:.1f} MB down,"
                    f" {record.bytes_up / 1e6:.1f} up)[/dim]",
                    highlight=False,
                )
            case events.Finished():
                for task in self._devices.values():
                    self._progress.remove_task(task)
                self._devices.clear()

    def _set(self, device: str, note: str, fraction: float) -> None:
        if device not in self._devices:
            self._devices[device] = self._progress.add_task(f"  {device}", total=1.0, note="")
        self._progress.update(self._devices[device], completed=fraction, note=note)


def _of_round(record: RoundRecord, *, classifies: bool) -> str:
    if classifies:
        held_out, on_devices = percent(record.held_out_accuracy), percent(record.device_accuracy)
    else:
        held_out, on_devices = shown(record.held_out_loss), shown(record.device_loss)
    words = f"{on_devices} on {record.devices} devices"
    if classifies or record.held_out_loss is not None:
        words = f"{held_out} held out, {words}"
    return words if classifies else f"loss {words}"


def percent(share: float | None) -> str:
    """A share as people read it, or a dash."""
    return "-" if share is None else f"{share:.1%}"


def shown(value: float | None, *, percent_of: bool = False) -> str:
    """A number as people read it, a share if it is one, or a dash."""
    if percent_of:
        return percent(value)
    return "-" if value is None else f"{value:.3f}"
