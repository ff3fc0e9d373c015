"""Where each operator of a model runs on a target, by the rules of its description."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from .graph import Graph, GraphOperator, GraphTensor, ModelGraphs
from .targets import Constraint, Rules, Target

# For these, the second input says along which axes.
_AXES_INPUT = {"MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD", "REDUCE_ANY", "REDUCE_ALL"}
_PADS = {"PAD", "PADV2", "MIRROR_PAD"}


@dataclass(frozen=True, slots=True)
class Placement:
    """Where one operator runs.

    Attributes:
        operator: The operator.
        tensor: Name of its first output.
        where: The accelerator's name, `CPU`, or `nowhere`.
        reason: Why not on the accelerator, or why nowhere; empty if it is where it should be.
        graph: Place of its subgraph, the model's own or the body of a loop.
        shape: Sizes of that output.
    """

    operator: GraphOperator
    tensor: str
    where: str
    reason: str = ""
    graph: int = 0
    shape: tuple[int, ...] = ()


def place(model: ModelGraphs, target: Target, entries: tuple[int, ...]) -> tuple[Placement, ...]:
    """Places every operator that runs when the subgraphs `entries` do, in the order of execution."""
    placements: list[Placement] = []
    cut = ""
    for entry in dict.fromkeys(inner for one in entries for inner in model.reachable(one)):
        graph = model.graphs[entry]
        inside = "" if entry in entries else "it is in the body of a loop or branch"
        for operator in graph.operators:
            found = _placement(operator, graph, target, cut or inside)
            rules = target.accelerator.rules if target.accelerator else target.cpu
            if found.reason and rules.prefix_only and not cut:
                cut = f"it comes after {operator.name}, from which on everything is on the CPU"
            placements.append(replace(found, graph=entry))
    return tuple(placements)


def _placement(operator: GraphOperator, graph: Graph, target: Target, cut: str) -> Placement:
    tensors = graph.output_tensors(operator)
    name, shape = (tensors[0].name, tensors[0].shape) if tensors else ("", ())
    on_cpu = obstacle(operator, graph, target.cpu)
    reason, where = on_cpu, "nowhere" if on_cpu else "CPU"
    if target.accelerator is not None:
        reason = obstacle(operator, graph, target.accelerator.rules) or cut
        where = where if reason else target.accelerator.name
    return Placement(operator, name, where, reason, shape=shape)


def obstacle(operator: GraphOperator, graph: Graph, rules: Rules) -> str:
    """Why a processor does not run an operator; empty if it does."""
    name = operator.name
    if name.startswith("CUSTOM:"):
        return _custom_obstacle(name.removeprefix("CUSTOM:"), rules)
    if (rules.operators and name not in rules.operators) or name in rules.excluded:
        return f"it does not have {name}"
    newest = rules.versions.get(name)
    if newest is not None and operator.version > newest:
        return f"it has {name} up to version {newest}, this is {operator.version}"
    tensors = [*graph.input_tensors(operator), *graph.output_tensors(operator)]
    reasons = (reason for tensor in tensors if (reason := _tensor_obstacle(tensor, rules)))
    reason = next(reasons, "")
    if reason or name not in rules.constraints:
        return reason
    return next(_broken(operator, graph, rules.constraints[name]), "")


def _custom_obstacle(name: str, rules: Rules) -> str:
    for known in rules.custom:
        if name == known or (known.endswith("*") and name.startswith(known[:-1])):
            return ""
    return f"{name or 'an unnamed operator'} is a custom operator"


def _tensor_obstacle(tensor: GraphTensor, rules: Rules) -> str:
    if tensor.dtype in rules.excluded_dtypes:
        return f"it has no {tensor.dtype}"
    if tensor.constant or tensor.variable:
        return ""
    if rules.dtypes and tensor.dtype not in rules.dtypes:
        return f"it takes {', '.join(rules.dtypes)}, this has {tensor.dtype}"
    # An open batch is 1 on runtimes that cannot resize: converters write the size to use beside it.
    if rules.static_shapes and -1 in tensor.shape[1:]:
        return f"it needs sizes that are fixed, this has {list(tensor.shape)}"
    if rules.large_dimensions and sum(size > 1 for size in tensor.shape) > rules.large_dimensions:
        return f"it takes at most {rules.large_dimensions} sizes above 1, this has {list(tensor.shape)}"
    return ""


def _broken(operator: GraphOperator, graph: Graph, rule: Constraint) -> Iterator[str]:
    """What of an operator breaks its constraint."""
    name, options = operator.name, operator.options
    inputs = graph.input_tensors(operator)
    data = next((tensor for tensor in inputs if not tensor.constant), None)
    if data is not None:
        yield from _broken_by_data(name, data, rule)
    for index in rule.constant:
        place = operator.inputs[index] if index < len(operator.inputs) else -1
        if place >= 0 and not graph.tensors[place].constant:
            yield f"it takes {name} with a constant input {index}, this one is computed"
    for option, value in rule.options.items():
        if options.get(option, value) != value:
            yield f"it takes {name} with {option} {value}, this has {options[option]}"
    if not rule.dilation and max(options.get("dilation_w", 1), options.get("dilation_h", 1)) > 1:
        yield f"it takes {name} without dilation, this is dilated"
    stride = max(options.get("stride_w", 1), options.get("stride_h", 1))
    if rule.largest_stride and stride > rule.largest_stride:
        yield f"it takes {name} with strides up to {rule.largest_stride}, this has {stride}"
    if not rule.broadcast and len({tensor.shape for tensor in inputs}) > 1:
        yield f"it takes {name} of equal shapes, this has {' and '.join(str(list(t.shape)) for t in inputs)}"
    used = _axes(operator, graph)
    if rule.axes and not set(used) <= set(rule.axes):
        yield f"it takes {name} along the axes {list(rule.axes)}, this is along {list(used)}"


def _broken_by_data(name: str, data: GraphTensor, rule: Constraint) -> Iterator[str]:
    if rule.dtypes and data.dtype not in rule.dtypes:
        yield f"it takes {name} of {', '.join(rule.dtypes)}, this has {data.dtype}"
    if rule.ranks and not rule.ranks[0] <= len(data.shape) <= rule.ranks[-1]:
        expected = " to ".join(map(str, dict.fromkeys((rule.ranks[0], rule.ranks[-1]))))
        yield f"it takes {name} of {expected} sizes, this has {list(data.shape)}"
    if rule.single_batch and data.shape and data.shape[0] > 1:
        yield f"it takes {name} of one example, this has {data.shape[0]}"
    if rule.largest and data.elements > rule.largest:
        yield f"it takes {name} of at most {rule.largest:,} numbers, this has {data.elements:,}"


def _axes(operator: GraphOperator, graph: Graph) -> tuple[int, ...]:
    """The axes that an operator reduces or pads, as far as the file says."""
    inputs = [graph.tensors[place] if place >= 0 else None for place in operator.inputs]
    if len(inputs) < 2 or inputs[0] is None or inputs[1] is None:
        return ()
    rank, values = max(1, len(inputs[0].shape)), inputs[1].values
    if operator.name in _AXES_INPUT:
        return tuple(sorted({axis % rank for axis in values}))
    if operator.name in _PADS:
        return tuple(axis for axis in range(len(values) // 2) if any(values[2 * axis : 2 * axis + 2]))
    return ()
