"""`hedgerow train` and `hedgerow export-trainable`: central training, and a model that trains on a device."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from .errors import ModelFileError, UsageError
from .onednn import use_onednn
from .quiet import native_log

if TYPE_CHECKING:
    import keras

    from .models import TrainableInfo
    from .models.distribution import Distribution
    from .models.training import EpochResult
    from .training_run import TrainingReport
    from .training_task import Task

app = typer.Typer()


@app.command()
def train(
    source: Annotated[
        str, typer.Argument(metavar="MODEL", help="A name of `hedgerow zoo`, or package.module:function.")
    ],
    out: Annotated[Path, typer.Option(help="The .keras file to write.")] = Path("model.keras"),
    data: Annotated[
        str | None,
        typer.Option(
            help="A folder with one folder of images or WAV files per class, an .npz with x and y, a .csv, "
            "package.module:function, or keras:mnist, fashion_mnist, cifar10, cifar100; by default the zoo's."
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data.", min=1)] = None,
    batch_size: Annotated[int | None, typer.Option(help="Examples a step, over all GPUs.", min=1)] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of the first step.", min=0.0)] = None,
    optimizer: Annotated[str, typer.Option(help="adam, adamw, sgd or momentum.")] = "adam",
    schedule: Annotated[str, typer.Option(help="cosine, warmup, exponential or constant.")] = "cosine",
    loss: Annotated[
        str | None,
        typer.Option(
            help="As Keras names it, or what fits; reads logits where the model ends in no activation."
        ),
    ] = None,
    clip: Annotated[float, typer.Option(help="Largest norm of the gradients; 0 for any.", min=0.0)] = 1.0,
    patience: Annotated[
        int | None, typer.Option(help="Stop after so many epochs without a smaller held-out loss.", min=1)
    ] = None,
    augment: Annotated[
        bool, typer.Option("--augment", help="Shift, light, scale or jitter examples.")
    ] = False,
    mirror: Annotated[bool, typer.Option("--mirror", help="Augment with mirrored images too.")] = False,
    held_out: Annotated[float, typer.Option(help="The share of --data to measure on.")] = 0.2,
    gpus: Annotated[
        str | None, typer.Option(help="all, a number, or cpu:N to try distribution out on the processor.")
    ] = None,
    mixed_precision: Annotated[
        bool, typer.Option("--mixed-precision", help="16-bit arithmetic, 32-bit weights.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a training of the same options that was killed.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the weights, the split and the order.", min=0)] = 0,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Bit for bit also on GPUs, where it is slower.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print report.json on standard output.")] = False,
) -> None:
    """Trains a Keras model in one place: the zoo's or your own, on one GPU, on all, or on several machines.

    TF_CONFIG in the environment, in TensorFlow's form, makes this one of several workers. Beside MODEL.keras
    the folder MODEL.training gets report.json, learning curves, filters, feature maps, the confusion matrix,
    summaries for TensorBoard, and the state that --resume goes on from.
    """
    console = Console(stderr=True)
    view = _TrainView(console)
    use_onednn()
    if mirror and not augment:
        raise UsageError("Expected --augment with --mirror, received --mirror alone.")
    with tempfile.TemporaryDirectory(prefix="hedgerow-") as folder, native_log(Path(folder) / "log"), view:
        from .training_run import TrainOptions, run_training

        options = TrainOptions(
            source=source, out=out, data=data, gpus=gpus, mixed_precision=mixed_precision, resume=resume,
            epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, optimizer=optimizer,
            schedule=schedule, clip=clip, loss=loss, patience=patience, augment=augment, mirror=mirror,
            held_out=held_out, seed=seed, deterministic=deterministic,
        )  # fmt: skip
        report = run_training(options, on_start=view.start, on_epoch=view.show)
    if report is None:
        return
    if json:
        typer.echo(msgspec.json.format(msgspec.json.encode(report), indent=2).decode())
    else:
        _show_report(report)


class _TrainView:
    """A progress bar over epochs on a terminal, and a line for each elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._epochs = 0
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("[dim]{task.fields[note]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("loading", total=None, note="")

    def __enter__(self) -> None:
        self._progress.start()

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def start(self, task: Task, distribution: Distribution, epochs: int) -> None:
        self._epochs = epochs
        self._console.print(
            f"{task.name}: {len(task.train):,} examples, {len(task.held_out):,} held out, {distribution}",
            highlight=False,
        )
        self._progress.update(self._task, description="training", total=epochs)

    def show(self, epoch: EpochResult) -> None:
        note = f"loss {epoch.loss:.4f}"
        if epoch.validation_accuracy is not None:
            note += f", held out {100 * epoch.validation_accuracy:.1f} %"
        self._progress.update(self._task, completed=epoch.epoch, note=note)
        if not self._console.is_terminal:
            line = f"epoch {epoch.epoch}/{self._epochs}: {note} ({epoch.seconds:.1f} s)"
            self._console.print(line, highlight=False)


def _show_report(report: TrainingReport) -> None:
    table = Table(report.name, "")
    for name, value in report.metrics.items():
        table.add_row(name, f"{value:.4f}")
    table.add_row("parameters", f"{report.parameters:,}")
    table.add_row("kept", f"epoch {report.best_epoch} of {report.epochs}")
    console = Console()
    console.print(table)
    console.print(
        f"{report.model}, pictures and report.json in {Path(report.model).with_suffix('.training')}"
    )


@app.command("export-trainable")
def export(
    model: Annotated[Path, typer.Argument(help="A .keras file.")],
    out: Annotated[Path, typer.Argument(help="The .tflite to write.")],
    batch_size: Annotated[int, typer.Option(help="Rows of a batch; fixed in the file.", min=1)] = 16,
    loss: Annotated[
        str, typer.Option(help="As Keras names it; reads logits where the model ends in no activation.")
    ] = "sparse_categorical_crossentropy",
    optimizer: Annotated[str, typer.Option(help="sgd, momentum, nesterov, adam or adamw.")] = "sgd",
    momentum: Annotated[float | None, typer.Option(help="Of momentum and nesterov.")] = None,
    clip: Annotated[float | None, typer.Option(help="Largest global norm of the gradients.")] = None,
    proximal: Annotated[bool, typer.Option("--proximal", help="Take FedProx's proximal term.")] = False,
    trainable: Annotated[str, typer.Option(help="all, head, bias, or a pattern of weight paths.")] = "all",
    variant: Annotated[
        list[str] | None, typer.Option(help="A further signature, NAME=SELECTION; may be repeated.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Writes a .tflite that trains with TFLite's built-in operators only."""
    chosen = {"momentum": momentum, "global_clipnorm": clip, "proximal": proximal or None}
    hyperparameters = {name: value for name, value in chosen.items() if value is not None}
    variants = dict(_variant(text) for text in variant or ())
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="hedgerow-") as folder, native_log(Path(folder) / "log"):
        with console.status("reading the model"):
            keras_model = load(model)
        with console.status("converting"):
            from .models import export_trainable, losses

            info = export_trainable(
                keras_model,
                out,
                batch_size=batch_size,
                loss=losses.for_model(loss, keras_model),
                optimizer=optimizer,
                trainable=trainable,
                variants=variants,
                **hyperparameters,
            )
    if json:
        typer.echo(msgspec.json.encode(_fields(info)).decode())
    else:
        show(info)


def load(path: Path) -> keras.Model:
    """The Keras model in a `.keras` file.

    Raises:
        ModelFileError: There is none.
    """
    import keras

    try:
        return keras.models.load_model(path, compile=False)
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelFileError(f"Expected a Keras model in {path}, received: {reason}") from error


def show(info: TrainableInfo) -> None:
    """Prints what was written."""
    table = Table("signature", "trains")
    for name, paths in info.trained.items():
        table.add_row(name, f"{len(paths)} of {len(info.weights)} weights")
    console = Console()
    console.print(
        f"{info.path}: {info.size_bytes / 1e3:,.1f} kB, batches of {info.batch_size}", highlight=False
    )
    console.print(table)


def _fields(info: TrainableInfo) -> dict[str, object]:
    return {
        "path": str(info.path),
        "size_bytes": info.size_bytes,
        "batch_size": info.batch_size,
        "signatures": sorted(info.signatures),
        "weights": info.weights,
        "trained": info.trained,
    }


def _variant(text: str) -> tuple[str, str]:
    name, equals, selection = text.partition("=")
    if not (name.isidentifier() and equals and selection):
        raise UsageError(f"Expected --variant NAME=SELECTION, received {text!r}.")
    return name, selection
