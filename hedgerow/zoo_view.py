"""What `hedgerow zoo verify` shows and writes while it runs."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from .zoo_page import show, write
from .zoo_row import Row, Run, Verified


class VerifyView:
    """A line for each row, what is under way on a terminal, and the page after every row.

    Args:
        known: Rows that are there already.
        order: Of all systems.
        jobs: How many are verified side by side.
        out: The page to write, if any.
        kept: How many of the rows that are wanted are there already.
        wanted: How many rows are wanted.

    Attributes:
        verified: All rows so far.
    """

    def __init__(
        self,
        known: Verified,
        order: tuple[str, ...],
        *,
        jobs: int,
        out: Path | None,
        kept: int,
        wanted: int,
    ) -> None:
        self.verified = known
        self._order, self._jobs, self._out = order, jobs, out
        self._done, self._wanted = kept, wanted
        self._console = Console(stderr=True)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._under_way: dict[str, TaskID] = {}
        self._began = time.monotonic()
        self._systems: tuple[str, ...] = ()
        self._lock = threading.Lock()

    def __enter__(self) -> VerifyView:
        self._progress.start()
        if self._done and self._out is not None:
            write(self._out, self.verified)
            self._console.print(f"{self._done} rows are there already", highlight=False)
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()
        if self._out is not None and self._out.is_file():
            self._console.print(f"[bold]{self._out}[/bold]")

    def stage(self, name: str, stage: str) -> None:
        """A system comes to a stage."""
        with self._lock:
            if name not in self._under_way:
                self._under_way[name] = self._progress.add_task("", total=None)
            self._progress.update(self._under_way[name], description=f"{name}: {stage}")

    def row(self, row: Row) -> None:
        """A system is done."""
        with self._lock:
            self._done += 1
            if row.name in self._under_way:
                self._progress.remove_task(self._under_way.pop(row.name))
            seconds = time.monotonic() - self._began
            run = Run(
                systems=self._systems,
                seconds=seconds,
                jobs=self._jobs,
                processors=os.cpu_count() or 1,
            )
            self.verified = self.verified.with_row(row, run, self._order)
            self._systems = (*self._systems, row.name)
            if self._out is not None:
                write(self._out, self.verified)
            place = f"[{self._done}/{self._wanted}, {seconds / 60:.1f} min]"
            self._console.print(f"{line(row)} {escape(place)}", highlight=False, soft_wrap=True)


def line(row: Row) -> str:
    """A row in one line, in rich's markup."""
    if row.failure:
        return f"[red]✗ {row.name}: {escape(row.failure)}[/red]"
    federated = f"{show(row, row.central)} -> {show(row, row.federated)} after {row.rounds} rounds"
    int8 = f"int8 {show(row, (row.int8.value,))}" if row.int8 else f"no int8: {escape(row.not_int8)}"
    return (
        f"[green]✓[/green] {row.name}: {row.measure} {federated}, {int8}, step {row.step_ms:.1f} ms, "
        f"parity {row.parity:.0e} ({row.seconds:.0f} s)"
    )
