"""What a graph of a voice pack takes, told before it runs: the sizes of its tensors, and its multiplications.

A pack comes from anybody, and a graph of a few bytes can ask for any memory and any time. Neither can be bounded while it runs:
nothing interrupts a runtime within an operator. So every size must follow from the sizes of what goes in. The runtime's own
inference tells them, with every tensor made an output of the graph; what the file declares of them is left out, as it need not
be true.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

import onnxruntime as ort  # type: ignore[import-untyped]

from models.graph import ModelError, first_line, session_options
from models.onnx_file import (
    OnnxFileError,
    check_references,
    field,
    fields,
    last,
    message,
    number_field,
    payload,
    read_varint,
    text,
)

# 512 MiB of float32 at a time, and some tenths of a second on one core: a step of the bundled graphs takes a tenth at most.
MOST_VALUES = 1 << 27
MOST_WORK = 1 << 32
VALUE_WORK = 16  # multiplications in the time in which a value is read or written, for an operator such as Sin
MOST_NODES = 10_000  # the largest bundled graph has 1,115
# A constant of at most so many values may be one that a shape is made from; a larger one is a weight, of which the size is enough.
SHAPE_VALUES = 2048
IR_VERSION = 9  # of the file that the runtime infers from

# What a pack's graphs are made of: of these, and no others, the cost follows from the sizes. No loops, no branches, nothing whose
# size depends on what is heard.
# These give no more values than the first input has, whatever their other inputs say.
REARRANGING = frozenset({"Cast", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})
# The last input of these tells of what shape the output is, or at which places it has more dimensions than the first.
RESHAPING = frozenset({"ConstantOfShape", "Expand", "Reshape"})
DEEPENING = frozenset({"Gather", "GatherND", "Unsqueeze"})
PRODUCTS = frozenset({"Gemm", "MatMul", "MatMulInteger"})
RECURRENT = frozenset({"GRU", "LSTM", "RNN"})
WINDOWED = frozenset({"AveragePool", "DFT", "MaxPool", "STFT"})  # each value from all of the input, at most
CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})  # not "ConvInteger", which lays out every window that a kernel is moved over
# Work in proportion to what they read and write.
LINEAR = frozenset(
    (
        "Abs", "Acos", "Acosh", "Add", "And", "ArgMax", "ArgMin", "Asin", "Asinh", "Atan", "Atanh",
        "BatchNormalization", "CastLike", "Ceil", "Celu", "Clip", "Concat", "Constant", "ConstantOfShape", "Cos",
        "Cosh", "CumSum", "DepthToSpace", "DequantizeLinear", "Div", "Dropout", "DynamicQuantizeLinear", "Elu", "Equal",
        "Erf", "Exp", "Expand", "EyeLike", "Flatten", "Floor", "Gather", "GatherElements", "GatherND", "Gelu",
        "GlobalAveragePool", "GlobalMaxPool", "Greater", "GreaterOrEqual", "GroupNormalization", "HardSigmoid",
        "HardSwish", "Hardmax", "InstanceNormalization", "IsInf", "IsNaN", "LayerNormalization", "LeakyRelu", "Less",
        "LessOrEqual", "Log", "LogSoftmax", "LpNormalization", "Max", "Mean", "MeanVarianceNormalization", "Min",
        "Mish", "Mod", "Mul", "Neg", "Not", "Or", "PRelu", "Pad", "Pow", "QuantizeLinear", "Range", "Reciprocal",
        "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
        "ReduceSum", "ReduceSumSquare", "Relu", "Resize", "ReverseSequence", "Round", "ScatterElements", "ScatterND",
        "Selu", "Shape", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Size", "Softmax", "Softplus", "Softsign",
        "SpaceToDepth", "Split", "Sqrt", "Sub", "Sum", "Tan", "Tanh", "ThresholdedRelu", "Tile", "TopK", "Trilu",
        "Where", "Xor",
    )
)
OPERATORS = REARRANGING | PRODUCTS | CONVOLUTIONS | RECURRENT | WINDOWED | LINEAR

# What has passed. A pack is loaded when it is written, when figures or its other engine are added, and when it is used: each time
# anew the check would take a second.
_passed: set[tuple[bytes, int, int]] = set()

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape | None]  # None: not known

UNKNOWN = "must tell the size of {!r} before it runs"


@dataclass(frozen=True)
class _Node:
    kind: str
    inputs: list[str]
    outputs: list[str]


@dataclass(frozen=True)
class _Graph:
    """What is read of a file.

    Attributes
    ----------
    nodes : list of _Node
    weights : mapping of str to Shape
        All constants, small ones as well.
    small : set of str
        Constants that a shape may be made from.
    bare : bytes
        The file, with shapes in place of the other constants, and every tensor an output.
    open_names : set of str
        Of dimensions.
    """

    nodes: list[_Node]
    weights: Mapping[str, Shape]
    small: set[str]
    bare: bytes
    open_names: set[str]


def check_cost(data: bytes, name: str, open_size: int = 1, most_work: int = MOST_WORK) -> None:
    """Refuse a graph that could take more memory or time than a network of this program does.

    Parameters
    ----------
    data : bytes
        An ONNX file.
    name : str
        What error messages call it.
    open_size : int
        What goes into the place of each dimension that is left open.
    most_work : int
        Multiplications of a run, with what else it does counted as so many.

    Raises
    ------
    ModelError
        If it is no graph, refers to anything besides itself, takes more, or does not tell what it takes.
    """
    key = (hashlib.sha256(data).digest(), open_size, most_work)
    if key in _passed:
        return
    try:
        check_references(data)
        graph = _read(data)
    except OnnxFileError as error:
        raise ModelError(f"{name} {error}") from None
    try:
        # At first nothing is computed. What is not known then comes from shapes that are: these may be computed, once it is clear
        # that nothing large can come of it.
        shapes = _infer(graph, open_size, ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
        problem = _cost_problem(graph, shapes, most_work) or _folding_problem(graph, shapes)
        if not problem and _unknown(graph, shapes):
            shapes = _infer(graph, open_size, ort.GraphOptimizationLevel.ORT_ENABLE_BASIC)
            problem = _cost_problem(graph, shapes, most_work)
            if not problem and (unknown := _unknown(graph, shapes)):
                problem = UNKNOWN.format(unknown)
    except Exception as error:  # the runtime's exceptions share no narrower base class
        raise ModelError(f"{name} is not an ONNX graph that can be run: {first_line(error)}") from error
    if problem:
        raise ModelError(f"{name} {problem[:400]}")
    _passed.add(key)


def _read(data: bytes) -> _Graph:
    file = list(fields(memoryview(data)))
    if any(number == 25 for number, _ in file):
        raise OnnxFileError("has functions of its own; a graph of a voice pack must have standard operators alone")
    graph = [part for number, value in file if number == 7 for part in message(value)]
    nodes = [_node(value) for number, value in graph if number == 1]
    if len(nodes) > MOST_NODES:
        raise OnnxFileError(f"must have at most {MOST_NODES} operators, got {len(nodes)}")
    if strange := next((node.kind for node in nodes if node.kind not in OPERATORS), None):
        raise OnnxFileError(f"has the operator {strange[:40]!r}, which a graph of a voice pack may not have")
    tensors = {_decoded(last(list(message(value)), 8)): value for number, value in graph if number == 5}
    if len(tensors) < sum(number == 5 for number, _ in graph):
        raise OnnxFileError("has two constants of one name")
    weights = {name: _dimensions(tensor) for name, tensor in tensors.items()}
    small = {name for name, shape in weights.items() if math.prod(shape) <= SHAPE_VALUES}
    bare = [field(number, payload(value)) for number, value in graph if number in (1, 2)]
    bare += [field(5, payload(tensors[name])) for name in small]
    bare += [field(11, _declaration(name, tensors[name])) for name in weights.keys() - small]
    inputs = [value for number, value in graph if number == 11 and _decoded(last(list(message(value)), 1)) not in weights]
    bare += [field(11, payload(value)) for value in inputs]
    for name in {output: None for node in nodes for output in node.outputs}:
        # A shape that is not known reads as that of a single number: the length of the shape tells them apart.
        rank = _rank(name).encode()
        bare.append(field(1, field(1, name.encode()) + field(2, rank) + field(4, b"Shape")))
        bare += [field(12, field(1, name.encode())), field(12, field(1, rank))]
    versions = b"".join(field(8, payload(value)) for number, value in file if number == 8)
    whole = number_field(1, IR_VERSION) + versions + field(7, b"".join(bare))
    return _Graph(nodes, weights, small, whole, set().union(*map(_open_names, inputs)))


def _infer(graph: _Graph, open_size: int, level: ort.GraphOptimizationLevel) -> Shapes:
    """Shapes of all tensors, as far as the runtime can tell."""
    options = session_options()
    options.graph_optimization_level = level
    for name in graph.open_names:
        options.add_free_dimension_override_by_name(name, open_size)
    session = ort.InferenceSession(graph.bare, options, providers=["CPUExecutionProvider"], enable_fallback=0)
    found = {value.name: value.shape for value in (*session.get_inputs(), *session.get_outputs())}

    def known(name: str, shape: list[object]) -> Shape | None:
        ranked = _rank(name) not in found or isinstance(found[_rank(name)][0], int)
        sizes = tuple(size for size in shape if isinstance(size, int) and size >= 0)
        return sizes if ranked and len(sizes) == len(shape) else None

    return {name: known(name, shape) for name, shape in found.items()} | dict(graph.weights)


def _cost_problem(graph: _Graph, shapes: Shapes, most_work: int) -> str:
    """What is too much among the sizes that are known."""
    kept = set(graph.weights)  # what does not depend on the input is computed once, and stays
    sizes = {name: math.prod(shape) for name, shape in shapes.items() if shape is not None}
    last_use = {name: place for place, node in enumerate(graph.nodes) for name in node.inputs}
    values = work = 0
    ending: dict[int, int] = {}  # values that are needed no more after a node
    for place, node in enumerate(graph.nodes):
        made = sum(sizes.get(name, 0) for name in node.outputs)
        values += made
        if node.kind == "Shape" or kept.issuperset(node.inputs):
            kept.update(node.outputs)
        else:
            for name in node.outputs:
                end = last_use.get(name, place)
                ending[end] = ending.get(end, 0) + sizes.get(name, 0)
        work += VALUE_WORK * (made + sum(sizes.get(name, 0) for name in node.inputs))
        work += _multiplications(node, shapes)
        if values > MOST_VALUES:
            return f"must hold at most {MOST_VALUES} values at a time when it runs, got {values} at {node.outputs[0]!r}"
        if work > most_work:
            return f"must take at most the time of {most_work} multiplications when it runs, got more at {node.outputs[0]!r}"
        values -= ending.pop(place, 0)
    return ""


def _multiplications(node: _Node, shapes: Shapes) -> int:
    """Of an operator that does more than to read and write, as far as the sizes are known."""
    known = [shape for name in (*node.inputs[:3], *node.outputs[:1]) if (shape := shapes.get(name)) is not None]
    parts = min(2, len(node.inputs)) + 1 if node.kind not in RECURRENT else 4
    if node.kind in LINEAR | REARRANGING or len(known) < parts:
        return 0
    first, result = math.prod(known[0]), math.prod(known[-1])
    if node.kind in WINDOWED:
        return first * result
    second = math.prod(known[1])
    if node.kind in PRODUCTS:
        return math.isqrt(first * second * result)  # M K, K N and M N values: M K N multiplications
    if node.kind in RECURRENT:
        # [directions, gates, inputs] and [directions, gates, hidden] values, all of them at each time
        return first // max(1, known[1][-1]) * (second + math.prod(known[2]))
    # Weights begin with the channels of what a kernel is moved over: of the output in "Conv", else of the input.
    return (result if node.kind == "Conv" else first) * second // max(1, (known[1] or (1,))[0])


def _folding_problem(graph: _Graph, shapes: Shapes) -> str:
    """What of small constants and shapes alone could become larger than is known."""
    there = set(shapes).difference(*(node.outputs for node in graph.nodes))
    most = dict.fromkeys(graph.small, SHAPE_VALUES)  # values of what can be computed
    ranks: dict[str, float] = {}  # of everything, at most
    for node in graph.nodes:
        if not there.issuperset(node.inputs):
            return f"must have its operators in the order in which they run, got {node.outputs[0]!r} before what it is made of"
        there.update(node.outputs)
        before = [ranks.get(name, len(shapes.get(name) or ())) for name in node.inputs]
        for name in node.outputs:
            rank = shapes[_rank(name)]
            if rank is not None:
                ranks[name] = rank[0]
            elif node.kind in RESHAPING:
                ranks[name] = max(before[0], most.get(node.inputs[-1], math.inf))
            elif node.kind in DEEPENING:
                ranks[name] = before[0] + most.get(node.inputs[-1], math.inf)
            else:
                ranks[name] = max(before, default=0)
            shape = shapes[name]
            if node.kind != "Shape" and not most.keys() >= set(node.inputs):
                continue
            bound = math.inf
            if shape is not None:
                most[name] = math.prod(shape)
                continue
            if node.kind == "Shape":
                bound = before[0]
            elif node.kind in REARRANGING:
                bound = most[node.inputs[0]]
            elif node.kind == "Concat":
                bound = sum(most[part] for part in node.inputs)
            if bound > SHAPE_VALUES:
                return UNKNOWN.format(name)
            most[name] = int(bound)
    return ""


def _unknown(graph: _Graph, shapes: Shapes) -> str:
    """The first tensor of which the size is not known."""
    return next((name for node in graph.nodes for name in node.outputs if shapes[name] is None), "")


def _node(value: memoryview | int) -> _Node:
    parts = list(message(value))
    domain, kind = text(last(parts, 7)), text(last(parts, 4))
    names = [(number, _decoded(part)) for number, part in parts if number in (1, 2)]
    inputs, outputs = ([name for number, name in names if name and number == wanted] for wanted in (1, 2))
    if not outputs:
        raise OnnxFileError(f"has an operator {kind[:40]!r} that gives nothing")
    return _Node(kind if domain in ("", "ai.onnx") else f"{domain}.{kind}", inputs, outputs)


def _decoded(value: memoryview | int) -> str:
    try:
        return bytes(payload(value)).decode()
    except UnicodeDecodeError:
        raise OnnxFileError("is not an ONNX model: a name in it is no text") from None


def _dimensions(tensor: memoryview | int) -> Shape:
    """Of a weight, each by itself or many in one field."""
    sizes: list[int] = []
    for number, value in message(tensor):
        if number == 1:
            position = 0
            while not isinstance(value, int) and position < len(value):
                size, position = read_varint(value, position)
                sizes.append(size)
            sizes += [value] if isinstance(value, int) else []
    return tuple(sizes)


def _declaration(name: str, tensor: memoryview | int) -> bytes:
    """A weight as an input: its name, type and shape."""
    kind = last(list(message(tensor)), 2)
    if not isinstance(kind, int):
        raise OnnxFileError("is not an ONNX model")
    shape = b"".join(field(1, number_field(1, size)) for size in _dimensions(tensor))
    return field(1, name.encode()) + field(2, field(1, number_field(1, kind) + field(2, shape)))


def _open_names(declared: memoryview | int) -> set[str]:
    """Names in the place of sizes in the shape of an input."""
    level = [declared]
    for wanted in (2, 1, 2, 1):  # type, tensor type, shape, dimension
        level = [value for part in level for number, value in message(part) if number == wanted]
    return {_decoded(value) for part in level for number, value in message(part) if number == 2}


def _rank(name: str) -> str:
    """Name of the shape of a tensor."""
    return f"shape of {name}"
