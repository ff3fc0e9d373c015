"""Every error that Hedgerow raises on purpose.

A message says what was expected, what was received and what to do. The command line prints it on one line,
without a traceback, and leaves with the class's own exit code.

    HedgerowError
    ├── UsageError            an argument or option out of its range
    ├── ModelError            a Keras model that cannot become a trainable file
    │   ├── UncoveredOperatorError   an operator without a built-in backward pass
    │   ├── DynamicShapeError        a size that is not known at conversion
    │   ├── SelectionError           a choice of weights that matches nothing
    │   ├── LossError                a loss or metric that is unknown or does not fit the model
    │   ├── OptimizerError           an optimizer that is unknown or has a wrong hyperparameter
    │   ├── RecurrentLayerError      a recurrent layer that carries state from batch to batch
    │   └── UnsafeGraphError         a converted file that an old runtime would get wrong
    ├── DatasetError          a data set that is not installed, or examples that do not fit together
    ├── UnknownModelError     no model of that name in the zoo
    ├── ZooError              a system of the zoo that does not go the whole way
    ├── QuantizationError     a model that a recipe cannot convert
    │   ├── UnsupportedLayerError    a layer without the arithmetic that the recipe asks for
    │   ├── SourceError              a model that is not there, damaged, or of a kind that is not read
    │   ├── CalibrationError         examples that do not fit the model, or too few of them
    │   │   ├── DataSourceError      data that are not there, damaged, or of a kind that is not read
    │   │   ├── DataShapeError       examples of another shape than the model takes
    │   │   ├── NotFiniteError       NaN or infinity in the examples
    │   │   ├── LabelsError          answers that do not go with the examples, the model or the labels
    │   │   └── EmptyClassError      a class without examples
    │   ├── CustomOperatorError      a file with an operator that TFLite does not have
    │   ├── VerificationError        a file that a target's runtime gets wrong
    │   ├── ConverterError           the converter failed or crashed
    │   ├── RecipeError              a recipe that is unknown
    │   └── GateError                no recipe kept the accuracy
    ├── ReleaseBuildError     a release that cannot be built
    │   └── DiskError            the disk failed or is full
    ├── PublicationError      a release that cannot be published, promoted or rolled back
    ├── TargetError           a target that is unknown or badly described
    ├── CompilerError         a compiler for an accelerator that is missing or failed
    ├── ManifestError         a release manifest that does not hold
    ├── SignatureError        a signature or a key that does not fit
    ├── RuntimeMissingError   no TFLite runtime in this process
    ├── ModelFileError        a .tflite file that cannot be read
    ├── InterpreterError      a runtime that refused to run a model
    ├── DelegateError         an accelerator's delegate that is not there or refuses
    ├── TensorError           a tensor with a wrong name, shape or type
    ├── TrainingDataError     examples or labels that a trainable file cannot take
    ├── ProtocolError         what came over the wire, or is to go over it, does not fit
    │   ├── TopicError
    │   ├── MessageError
    │   ├── TensorsError
    │   └── BlobError
    ├── BrokerUrlError        not an address of a broker
    ├── BrokerError           the broker is not there or refuses
    ├── AgentConfigError      an agent.toml that cannot be used
    ├── SamplesError          the device's own samples cannot be trained on
    ├── SpoolError            the agent's state folder cannot be used
    ├── AgentNotRunningError  nobody to ask: the device's agent does not run
    ├── ServiceError          the agent cannot be made a service of this machine
    ├── RefusedReleaseError   a release that this device must not or cannot run
    ├── NoReleaseError        the device has no release to predict with
    ├── CoordinatorError      the coordinator cannot go on
    │   ├── JournalError
    │   ├── CoordinatorConfigError
    │   ├── StrategyError
    │   ├── NoUpdateError
    │   ├── UpdateError
    │   ├── FlowerAppError
    │   └── CoordinatorConflictError
    └── DemoError             the demo cannot be run as asked
        ├── OutputFolderError
        ├── PortInUseError
        └── ProcessError
"""

from __future__ import annotations

from typing import ClassVar


class HedgerowError(Exception):
    """An error with a cause that the user can act on.

    Args:
        message: What was expected and what was received, as one sentence.
        remedy: What to do about it, where more is known than the class's own remedy says.
        **facts: What the error is about (a path, a layer, a shape); each becomes an attribute.
    """

    exit_code: ClassVar[int] = 1
    remedy: str = "Run the command again with --help, or read the log it names."

    def __init__(self, message: str, *, remedy: str | None = None, **facts: object) -> None:
        super().__init__(message)
        if remedy is not None:
            self.remedy = remedy
        self.facts = facts
        for name, value in facts.items():
            setattr(self, name, value)

    def __str__(self) -> str:
        return f"{self.args[0]} {self.remedy}"


class UsageError(HedgerowError):
    """An argument or an option has a value outside its range."""

    exit_code = 2
    remedy = "See --help for the values that are accepted."


class ProtocolError(HedgerowError):
    """Something on the wire does not fit the protocol."""

    exit_code = 50
    remedy = "Check that both sides run versions of Hedgerow that speak the same protocol."


class TopicError(ProtocolError):
    """A name cannot stand in a topic."""

    exit_code = 51
    remedy = "Choose a name of lower-case letters, digits and '-'."


class MessageError(ProtocolError):
    """A payload is no valid message of its kind."""

    exit_code = 52
    remedy = "The message was dropped; look at the sender named by the topic."


class TensorsError(ProtocolError):
    """Tensors are not those of the model."""

    exit_code = 53
    remedy = "Check that the device works on the model it was sent."


class BlobError(ProtocolError):
    """A blob is missing, or its bytes are not those its name says."""

    exit_code = 54
    remedy = "It will be fetched again; if this repeats, check the disk and the sender."


class BrokerUrlError(HedgerowError):
    """The address of a broker cannot be read."""

    exit_code = 55
    remedy = "Write it as mqtt://[user:password@]host[:port], or mqtts:// for TLS."


class BrokerError(HedgerowError):
    """The broker is not there or refuses the connection."""

    exit_code = 56
    remedy = "Check that it runs, that the port is open, and the user name and password."


class AgentConfigError(HedgerowError):
    """The configuration of an agent cannot be used."""

    exit_code = 57
    remedy = "Correct the file; docs/device.md describes every field."


class SamplesError(HedgerowError):
    """The device's own samples are missing, or cannot be trained on."""

    exit_code = 58
    remedy = "Look at the samples folder that agent.toml names."


class SpoolError(HedgerowError):
    """The state folder of the agent cannot be used."""

    exit_code = 59
    remedy = (
        "Check that the disk has room, that the folder is the agent's own, and that no other agent uses it."
    )


class AgentNotRunningError(HedgerowError):
    """The device's agent does not run, so that nobody does what it is asked."""

    exit_code = 63
    remedy = "Start it: `hedgerow agent run`, or `systemctl start hedgerow-agent-<device>`."


class ServiceError(HedgerowError):
    """The agent cannot be made a service of this machine."""

    exit_code = 64
    remedy = "Run it as root, or take the unit from --print and place it yourself."


class RefusedReleaseError(HedgerowError):
    """A release must not or cannot run on this device; the one before goes on serving."""

    exit_code = 61
    remedy = "Publish a corrected release with a higher version."


class NoReleaseError(HedgerowError):
    """The device has no release to predict with."""

    exit_code = 62
    remedy = "Publish a release to the device's channel, or install one from a folder."


class ModelError(HedgerowError):
    """A Keras model cannot become a trainable file."""

    exit_code = 10
    remedy = "Change the layer that the message names; docs/trainable-graph.md lists what is covered."


class UncoveredOperatorError(ModelError):
    """An operator of the model has no backward pass made of TFLite built-in operators."""

    exit_code = 11
    remedy = "Replace the layer by a covered one, or register a gradient: see docs/trainable-graph.md."


class DynamicShapeError(ModelError):
    """A size of an input or of a tensor is not known at conversion."""

    exit_code = 12
    remedy = "Give every dimension but the batch a fixed size in keras.Input."


class SelectionError(ModelError):
    """The choice of trainable weights matches nothing, or names what does not exist."""

    exit_code = 13
    remedy = "Use all, head, bias, or a pattern such as 'dense*' that matches the paths of weights."


class RecurrentLayerError(ModelError):
    """A recurrent layer does what a trainable file cannot: it carries its state from batch to batch."""

    exit_code = 15
    remedy = "Build the layer with stateful=False; pass a state on as initial_state if it is needed."


class UnsafeGraphError(ModelError):
    """The converted file has an operator that an old runtime lacks, aborts on or gets wrong."""

    exit_code = 14
    remedy = "Replace the layer that the message names; docs/trainable-graph.md explains the traps."


class RuntimeMissingError(HedgerowError):
    """No TFLite runtime can be loaded in this process."""

    exit_code = 40
    remedy = "Install hedgerow[edge], which brings tflite-runtime or ai-edge-litert."


class ModelFileError(HedgerowError):
    """A model file is missing or is not a model that the runtime reads."""

    exit_code = 41
    remedy = "Check the path, and that the file was written by this version of Hedgerow."


class InterpreterError(HedgerowError):
    """The runtime refused to run a model."""

    exit_code = 42
    remedy = "Convert the model again with this version of Hedgerow."


class DelegateError(HedgerowError):
    """The library that runs models on an accelerator is not there, or refuses."""

    exit_code = 46
    remedy = "Install the accelerator's driver, or name its library as `delegate` in agent.toml."


class TensorError(HedgerowError):
    """A tensor has a name, a shape or an element type that the file does not declare."""

    exit_code = 43
    remedy = "hedgerow inspect FILE prints what each signature takes."


class TrainingDataError(HedgerowError):
    """Examples, labels or weights cannot be used for training."""

    exit_code = 60
    remedy = "Check the shape, the type and the range of the arrays."


class CoordinatorError(HedgerowError):
    """The coordinator cannot go on."""

    exit_code = 70
    remedy = "Read its log; started again it goes on where it was."


class JournalError(CoordinatorError):
    """The coordinator's journal cannot be read or written."""

    exit_code = 71
    remedy = "Check the folder's permissions and the free space on its disk."


class CoordinatorConfigError(CoordinatorError):
    """A coordinator's configuration cannot be read or does not fit."""

    exit_code = 72
    remedy = "Correct the file; the README shows a whole one."


class StrategyError(CoordinatorError):
    """A strategy is unknown or does not take its arguments."""

    exit_code = 73
    remedy = "Choose one of the strategies of flwr.serverapp.strategy, and arguments that it takes."


class NoUpdateError(CoordinatorError):
    """No device answered in any round."""

    exit_code = 74
    remedy = "Look at the agents' logs, and give the rounds more time."


class UpdateError(CoordinatorError):
    """What a device sent cannot count as an update of its task."""

    exit_code = 75
    remedy = "Look at the device's log; the round goes on without it."


class CoordinatorConflictError(CoordinatorError):
    """Another coordinator serves the same fleet, or works in the same folder."""

    exit_code = 76
    remedy = "Stop the other one, or give this one a fleet and a folder of its own."


class FlowerAppError(CoordinatorError):
    """A Flower app cannot be loaded, has raised an error, or does not repeat itself after a restart."""

    exit_code = 77
    remedy = "Correct the app, and start it again: it goes on where it was; --fresh begins anew."


class LossError(ModelError):
    """A loss or a metric is unknown, has a wrong hyperparameter, or does not fit the model's output."""

    exit_code = 18
    remedy = "See hedgerow.models.losses.NAMES and hedgerow.models.metrics.NAMES for what there is."


class OptimizerError(ModelError):
    """An optimizer is unknown, or has a hyperparameter outside its range."""

    exit_code = 19
    remedy = "See hedgerow.models.optimizers.NAMES for what there is."


class DatasetError(HedgerowError):
    """A data set is not installed, or its examples and labels do not fit together."""

    exit_code = 25
    remedy = "Check the number and shape of the examples against their labels."


class UnknownModelError(HedgerowError):
    """The zoo has no model of that name."""

    exit_code = 26
    remedy = "Choose one of the names listed."


class ZooError(HedgerowError):
    """A system of the zoo does not go the whole way."""

    exit_code = 27
    remedy = "Run `hedgerow zoo verify` with its name alone, and look at the message of its row."


class QuantizationError(HedgerowError):
    """A model cannot be converted with the recipe asked for."""

    exit_code = 30
    remedy = "Choose another recipe, or change the model."


class UnsupportedLayerError(QuantizationError):
    """A layer has no form in the arithmetic that the recipe asks for."""

    exit_code = 31
    remedy = "Keep the model in float32, or replace the layer."


class CalibrationError(QuantizationError):
    """The calibration examples do not fit the model, hold NaN, or are too few."""

    exit_code = 32
    remedy = "Give at least 100 examples of the shape that the model takes, drawn like those it will see."


class SourceError(QuantizationError):
    """A model to convert is not there, is damaged or truncated, or is of a kind that is not read."""

    exit_code = 37
    remedy = "Name a .keras file, a SavedModel, a float .tflite, package.module:function or a zoo name."


class DataSourceError(CalibrationError):
    """The data are not there, are damaged or truncated, or are of a kind that is not read."""

    exit_code = 90
    remedy = "Give an .npz, a .csv, a .parquet, a folder of files by class, or package.module:function."


class DataShapeError(CalibrationError):
    """The examples have another shape than the model takes."""

    exit_code = 91
    remedy = "Bring the examples to the shape that the model takes; windows have --length steps."


class NotFiniteError(CalibrationError):
    """There is NaN or infinity in the examples."""

    exit_code = 92
    remedy = "Take these examples out, or fill the gaps in."


class LabelsError(CalibrationError):
    """The answers do not go with the examples, with the model's outputs or with the names of the classes."""

    exit_code = 93
    remedy = "Give one integer class from 0 per example, below the number of the model's outputs."


class EmptyClassError(CalibrationError):
    """A class has no examples."""

    exit_code = 94
    remedy = "Give examples of every class, or take the class out of the labels."


class CustomOperatorError(QuantizationError):
    """A model file has an operator that is not one of TFLite's own."""

    exit_code = 38
    remedy = "Replace the layer that it comes from, and make the file again."


class VerificationError(QuantizationError):
    """A file fails on a runtime that a target uses, or gives other numbers than the reference kernels."""

    exit_code = 39
    remedy = "Choose another recipe with --recipe, or leave the target out."


class ConverterError(QuantizationError):
    """The TFLite converter refused the model, or crashed."""

    exit_code = 33
    remedy = "Read the converter's last words; try the recipe float32 to see whether the model is at fault."


class RecipeError(QuantizationError):
    """There is no recipe of that name."""

    exit_code = 34
    remedy = "Choose one of the names listed."


class GateError(QuantizationError):
    """No recipe kept the accuracy within the drop that is allowed."""

    exit_code = 36
    remedy = "Allow a larger drop, give more calibration data, or train the model with noise."


class ReleaseBuildError(HedgerowError):
    """A release cannot be built or written; nothing of it is left behind."""

    exit_code = 35
    remedy = "Choose a higher version or an empty folder on a disk with space."


class DiskError(ReleaseBuildError):
    """The disk failed or is full; nothing of the release is left behind."""

    exit_code = 95
    remedy = "Make room, or choose a folder on another disk with --out."


class TargetError(HedgerowError):
    """There is no target of that name, or its description is wrong."""

    exit_code = 44
    remedy = "Choose one of the names that `hedgerow targets` lists."


class CompilerError(HedgerowError):
    """The compiler of an accelerator is missing or failed."""

    exit_code = 45
    remedy = "Install hedgerow[hardware]; the message holds the compiler's last words."


class ManifestError(HedgerowError):
    """A release manifest is damaged, from a newer Hedgerow, or does not fit its files."""

    exit_code = 66
    remedy = "Fetch the release again from where it was built."


class SignatureError(HedgerowError):
    """A signature, or the key for one, is missing or does not fit."""

    exit_code = 67
    remedy = "Trust only releases signed with your fleet's key; check that the device has its public half."


class PublicationError(HedgerowError):
    """A release cannot be published, promoted or rolled back."""

    exit_code = 68
    remedy = "`hedgerow release list` shows what each channel offers and offered before."


class DemoError(HedgerowError):
    """The demo cannot be run as asked."""

    exit_code = 80
    remedy = "See `hedgerow demo --help`."


class OutputFolderError(DemoError):
    """The output folder is not empty or cannot be written."""

    exit_code = 81
    remedy = "Name another folder with --out, or remove this one."


class PortInUseError(DemoError):
    """The port that the embedded broker was to listen on is taken."""

    exit_code = 82
    remedy = "Name another one with --port, or leave it out: a free one is found."


class ProcessError(DemoError):
    """A process that the demo started has ended by itself."""

    exit_code = 83
    remedy = "Read its log."
