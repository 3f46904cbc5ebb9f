"""An ONNX graph as a torch module, so that gradients pass through it.

ONNX Runtime computes no gradients outside its training build, and the converter on PyPI, onnx2torch, wants torchvision and has
no reductions of operator set 18. Speech encoders need some seventy operators, most of them one call of torch; what is not here
is refused by name. Numbers that only say shapes stay on the CPU, wherever the rest is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn
from torch.nn import functional

MOST_NODES = 20_000  # HuBERT's largest export has some 3,000
MOST_VALUES = 2**28  # of a tensor: 1 GiB; a shape in a file can ask for any number

KINDS: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.BOOL: torch.bool,
}


@dataclass(frozen=True)
class Node:
    """One operator of a graph. `version` is that of the operator set; an input that is left out has no name."""

    kind: str
    version: int
    attributes: dict[str, Any]
    inputs: list[str]
    outputs: list[str]

    def __call__(self, values: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
        made = OPERATORS[self.kind](self, *values)
        return made if isinstance(made, tuple) else (made,)

    def get(self, name: str, default: Any = None) -> Any:
        return self.attributes.get(name, default)

    def numbers(self, name: str, value: Tensor | None = None) -> list[int] | None:
        """Whole numbers that newer operators take as an input and older ones as an attribute."""
        return self.get(name) if value is None else [int(number) for number in value.flatten().tolist()]


class OnnxModule(nn.Module):
    """The part of a graph that its output `output` hangs on. `forward(x)`: x is the graph's input `source`.

    Raises ValueError, one sentence, for operators and tensors that are not known here, and from `forward` where an operator
    cannot be computed.
    """

    def __init__(self, model: onnx.ModelProto, source: str, output: str) -> None:
        super().__init__()
        self.source, self.output = source, output
        if len(model.graph.node) > MOST_NODES:
            raise ValueError(f"it has {len(model.graph.node)} operators, more than {MOST_NODES}")
        version = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
        needed, nodes = {output}, []
        for proto in reversed(model.graph.node):
            if needed & set(proto.output):
                needed |= set(proto.input)
                nodes.append(proto)
        self.nodes: list[Node] = []
        self.whole: dict[str, Tensor] = {}  # numbers that say shapes and places
        self.weights: dict[str, str] = {}  # names of buffers
        for tensor in model.graph.initializer:
            if tensor.name in needed:
                self._keep(tensor.name, _tensor(tensor))
        for proto in reversed(nodes):
            node = _node(proto, version)
            if node.kind == "Constant":
                self._keep(node.outputs[0], _constant(node))
            else:
                self.nodes.append(node)

    def _keep(self, name: str, value: Tensor) -> None:
        if value.is_floating_point():
            self.weights[name] = f"weight_{len(self.weights)}"
            self.register_buffer(self.weights[name], value, persistent=False)
        else:
            self.whole[name] = value

    def forward(self, x: Tensor) -> Tensor:
        values = {**self.whole, **{name: self.get_buffer(buffer) for name, buffer in self.weights.items()}, self.source: x}
        for node in self.nodes:
            try:
                inputs = [values[name] if name else None for name in node.inputs]
                if node.kind not in READ_ON_CPU and any(value is not None and value.device == x.device for value in inputs):
                    inputs = [None if value is None else value.to(x.device) for value in inputs]
                made = node(inputs)
            except KeyError as error:
                raise ValueError(f"its operator {node.kind} wants {error}, which nothing gives") from None
            except (RuntimeError, TypeError, IndexError, AttributeError, NotImplementedError) as error:
                problem = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
                raise ValueError(f"its operator {node.kind} fails: {problem}") from error
            for name, value in zip(node.outputs, made, strict=False):
                if value.numel() > MOST_VALUES:
                    raise ValueError(f"its operator {node.kind} makes a tensor of {value.numel()} values")
                values[name] = value
        return values[self.output]


def _node(proto: onnx.NodeProto, version: int) -> Node:
    if proto.domain not in ("", "ai.onnx") or proto.op_type not in {*OPERATORS, "Constant"}:
        raise ValueError(f"its operator {proto.op_type!r} is not known here")
    attributes = {}
    for attribute in proto.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        if isinstance(value, TensorProto):
            value = _tensor(value)
        attributes[attribute.name] = value.decode(errors="replace") if isinstance(value, bytes) else value
    return Node(proto.op_type, version, attributes, list(proto.input), list(proto.output))


def _tensor(proto: TensorProto) -> Tensor:
    """A tensor that lies in the file itself."""
    if proto.data_type not in KINDS:
        raise ValueError(f"its tensor {proto.name[:60]!r} is of a kind that has no gradients")
    if math.prod(proto.dims) > MOST_VALUES:
        raise ValueError(f"its tensor {proto.name[:60]!r} has {math.prod(proto.dims)} values")
    return torch.tensor(numpy_helper.to_array(proto)).to(KINDS[proto.data_type])


def _constant(node: Node) -> Tensor:
    for name in ("value", "value_float", "value_floats", "value_int", "value_ints"):
        if name in node.attributes:
            return torch.as_tensor(node.attributes[name])
    raise ValueError("it has a constant of a kind that has no gradients")


# The operators, as https://onnx.ai/onnx/operators has them.


def _bounded(shape: Sequence[int]) -> list[int]:
    if math.prod(shape) > MOST_VALUES:
        raise ValueError(f"a tensor in it would have {math.prod(shape)} values")
    return list(shape)


def _cast(node: Node, x: Tensor) -> Tensor:
    if node.attributes["to"] not in KINDS:
        raise ValueError("it casts to a kind of number that has no gradients")
    return x.to(KINDS[node.attributes["to"]])


def _constant_of_shape(node: Node, shape: Tensor) -> Tensor:
    value = node.get("value", torch.zeros(1))
    return torch.full(_bounded(shape.tolist()), value.item(), dtype=value.dtype)


def _shape(node: Node, x: Tensor) -> Tensor:
    return torch.tensor(x.shape[node.get("start", 0) : node.get("end")], dtype=torch.int64)


def _reshape(node: Node, x: Tensor, shape: Tensor) -> Tensor:
    sizes = shape.tolist()
    if not node.get("allowzero", 0):
        sizes = [x.shape[place] if size == 0 else size for place, size in enumerate(sizes)]
    return x.reshape(sizes)


def _flatten(node: Node, x: Tensor) -> Tensor:
    axis = node.get("axis", 1)
    return x.reshape(math.prod(x.shape[: axis if axis >= 0 else axis + x.ndim]), -1)


def _squeeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    places = node.numbers("axes", axes)
    return x.squeeze() if places is None else x.squeeze(places)


def _unsqueeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    places = node.numbers("axes", axes) or []
    rank = x.ndim + len(places)
    for place in sorted(place % rank for place in places):
        x = x.unsqueeze(place)
    return x


def _expand(node: Node, x: Tensor, shape: Tensor) -> Tensor:
    return x.expand(_bounded(torch.broadcast_shapes(x.shape, shape.tolist())))


def _tile(node: Node, x: Tensor, repeats: Tensor) -> Tensor:
    _bounded([size * times for size, times in zip(x.shape, repeats.tolist(), strict=True)])
    return x.repeat(repeats.tolist())


def _range(node: Node, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    count = max(0, math.ceil((limit.item() - start.item()) / delta.item()))
    return start + delta * torch.arange(_bounded([count])[0], dtype=start.dtype, device=start.device)


def _gather(node: Node, x: Tensor, places: Tensor) -> Tensor:
    axis = node.get("axis", 0) % x.ndim
    places = places.to(x.device)
    chosen = x.index_select(axis, (places.flatten() % x.shape[axis]).long())
    return chosen.reshape([*x.shape[:axis], *places.shape, *x.shape[axis + 1 :]])


def _slice(
    node: Node,
    x: Tensor,
    starts: Tensor | None = None,
    ends: Tensor | None = None,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    first, last = node.numbers("starts", starts) or [], node.numbers("ends", ends) or []
    places = node.numbers("axes", axes) or list(range(len(first)))
    strides = [1] * len(first) if steps is None else node.numbers("steps", steps) or []
    for axis, start, end, step in zip(places, first, last, strides, strict=True):
        chosen = range(x.shape[axis])[start:end:step]
        if step == 1:
            x = x.narrow(axis, chosen.start, len(chosen))
        else:
            x = x.index_select(axis, torch.tensor(chosen, dtype=torch.int64, device=x.device))
    return x


def _split(node: Node, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    axis, lengths = node.get("axis", 0), node.numbers("split", sizes)
    parts: tuple[Tensor, ...] = x.split(lengths or -(-x.shape[axis] // len(node.outputs)), axis)
    return parts


def _pad(node: Node, x: Tensor, pads: Tensor | None = None, value: Tensor | None = None, axes: Tensor | None = None) -> Tensor:
    amounts = node.numbers("pads", pads) or []
    places = node.numbers("axes", axes) or list(range(x.ndim))
    both = {place % x.ndim: pair for place, pair in zip(places, zip(*_halves(amounts), strict=True), strict=True)}
    for place, (before, after) in both.items():
        _bounded([*x.shape[:place], x.shape[place] + before + after, *x.shape[place + 1 :]])
    mode = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}.get(node.get("mode", "constant"))
    if mode is None:
        raise ValueError("it pads in a way that is not known here")
    if mode == "constant":
        number = node.get("value", 0.0) if value is None else value.item()
        return functional.pad(x, [size for place in reversed(range(x.ndim)) for size in both.get(place, (0, 0))], mode, number)
    padded = [place for place, pair in both.items() if any(pair)]
    if padded not in ([], [x.ndim - 1]):
        raise ValueError("it mirrors other axes than the last")
    return functional.pad(x, list(both[padded[0]]), mode) if padded else x


def _halves(numbers: list[int]) -> tuple[list[int], list[int]]:
    """What comes before each axis, and what after."""
    return numbers[: len(numbers) // 2], numbers[len(numbers) // 2 :]


def _scatter(node: Node, x: Tensor, places: Tensor, updates: Tensor) -> Tensor:
    if node.get("reduction", "none") != "none":
        raise ValueError("it scatters in a way that is not known here")
    return x.index_put(places.long().unbind(-1), updates)


def _convolution(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if node.get("auto_pad", "NOTSET") != "NOTSET":
        raise ValueError("it has a convolution that pads by itself")
    axes = x.ndim - 2
    before, after = _halves(node.get("pads", [0] * (2 * axes)))
    if any(before) or any(after):
        x = functional.pad(x, [size for pair in reversed(list(zip(before, after, strict=True))) for size in pair])
    convolve: Callable[..., Tensor] = {1: functional.conv1d, 2: functional.conv2d}[axes]
    one = [1] * axes
    return convolve(x, weight, bias, node.get("strides", one), 0, node.get("dilations", one), node.get("group", 1))


def _gemm(node: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    product: Tensor = (a.t() if node.get("transA", 0) else a) @ (b.t() if node.get("transB", 0) else b)
    product = product * node.get("alpha", 1.0)
    return product if c is None else product + c * node.get("beta", 1.0)


def _layer_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    axis = node.get("axis", -1) % x.ndim
    return functional.layer_norm(x, x.shape[axis:], scale, bias, node.get("epsilon", 1e-5))


def _group_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    groups = node.attributes["num_groups"]
    if len(scale) != x.shape[1]:  # as the first version of it has them
        scale, bias = (values.repeat_interleave(x.shape[1] // groups) for values in (scale, bias))
    return functional.group_norm(x, groups, scale, bias, node.get("epsilon", 1e-5))


def _instance_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return functional.group_norm(x, x.shape[1], scale, bias, node.get("epsilon", 1e-5))


def _batch_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return functional.batch_norm(x, mean, variance, scale, bias, eps=node.get("epsilon", 1e-5))


def _softmax(node: Node, x: Tensor) -> Tensor:
    if node.version >= 13:
        return x.softmax(node.get("axis", -1))
    return _flatten(node, x).softmax(1).reshape(x.shape)


def _clip(node: Node, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    low, high = (
        torch.tensor(node.attributes[name], dtype=x.dtype, device=x.device) if name in node.attributes else limit
        for name, limit in (("min", low), ("max", high))
    )
    return x if low is None and high is None else x.clamp(low, high)


def _div(node: Node, a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _mod(node: Node, a: Tensor, b: Tensor) -> Tensor:
    return torch.fmod(a, b) if node.get("fmod", 0) else torch.remainder(a, b)


def _trilu(node: Node, x: Tensor, k: Tensor | None = None) -> Tensor:
    diagonal = 0 if k is None else int(k.item())
    return x.triu(diagonal) if node.get("upper", 1) else x.tril(diagonal)


def _reduced(reduce: Callable[[Tensor, list[int], bool], Tensor]) -> Callable[..., Tensor]:
    """A reduction over axes; over all, if none are named."""

    def run(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
        places = node.numbers("axes", axes) or []
        if not places and node.get("noop_with_empty_axes", 0):
            return x
        return reduce(x, places or list(range(x.ndim)), bool(node.get("keepdims", 1)))

    return run


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted((axis % x.ndim for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def _folded(combine: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """An operator of any number of inputs."""

    def run(node: Node, first: Tensor, *others: Tensor) -> Tensor:
        for other in others:
            first = combine(first, other)
        return first

    return run


def _each(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """An operator without attributes."""
    return lambda node, *values: function(*values)


OPERATORS: dict[str, Callable[..., Any]] = {
    **{name: _each(getattr(torch, name.lower())) for name in ("Abs", "Ceil", "Cos", "Erf", "Exp", "Floor", "Log", "Neg")},
    **{name: _each(getattr(torch, name.lower())) for name in ("Reciprocal", "Relu", "Sigmoid", "Sign", "Sin", "Sqrt", "Tanh")},
    **{name: _each(getattr(torch, name.lower())) for name in ("Add", "MatMul", "Mul", "Sub", "Where")},
    **{name: _each(getattr(torch, f"logical_{name.lower()}")) for name in ("And", "Not", "Or", "Xor")},
    "Equal": _each(torch.eq),
    "Greater": _each(torch.gt),
    "GreaterOrEqual": _each(torch.ge),
    "Less": _each(torch.lt),
    "LessOrEqual": _each(torch.le),
    "Max": _folded(torch.maximum),
    "Min": _folded(torch.minimum),
    "Pow": lambda node, x, y: torch.pow(x, y).to(x.dtype),
    "Div": _div,
    "Mod": _mod,
    "Clip": _clip,
    "Softplus": _each(functional.softplus),
    "LeakyRelu": lambda node, x: functional.leaky_relu(x, node.get("alpha", 0.01)),
    "Elu": lambda node, x: functional.elu(x, node.get("alpha", 1.0)),
    "Gelu": lambda node, x: functional.gelu(x, approximate=node.get("approximate", "none")),
    "Softmax": _softmax,
    "Dropout": lambda node, x, *unused: x,  # as it is when a network is used
    "Identity": lambda node, x: x,
    "Cast": _cast,
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "Shape": _shape,
    "Size": lambda node, x: torch.tensor(x.numel()),
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": lambda node, x: x.permute(node.get("perm", list(range(x.ndim))[::-1])),
    "Expand": _expand,
    "Tile": _tile,
    "Concat": lambda node, *values: torch.cat(values, node.attributes["axis"]),
    "Split": _split,
    "Slice": _slice,
    "Pad": _pad,
    "Gather": _gather,
    "GatherElements": lambda node, x, places: x.gather(node.get("axis", 0), places.long() % x.shape[node.get("axis", 0)]),
    "NonZero": lambda node, x: x.nonzero().t(),
    "ScatterND": _scatter,
    "Trilu": _trilu,
    "ReduceMean": _reduced(lambda x, axes, keep: x.mean(axes, keepdim=keep)),
    "ReduceSum": _reduced(lambda x, axes, keep: x.sum(axes, keepdim=keep, dtype=x.dtype)),
    "ReduceMax": _reduced(lambda x, axes, keep: x.amax(axes, keepdim=keep)),
    "ReduceMin": _reduced(lambda x, axes, keep: x.amin(axes, keepdim=keep)),
    "ReduceL2": _reduced(lambda x, axes, keep: torch.linalg.vector_norm(x, dim=axes, keepdim=keep)),
    "ReduceProd": _reduced(_product),
    "Conv": _convolution,
    "Gemm": _gemm,
    "LayerNormalization": _layer_norm,
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "BatchNormalization": _batch_norm,
}

# Their other inputs are whole numbers, which are asked for one by one.
READ_ON_CPU = frozenset(
    {"Reshape", "Squeeze", "Unsqueeze", "Expand", "Tile", "Split", "Slice", "Pad", "Gather", "Trilu"}
    | {name for name in OPERATORS if name.startswith("Reduce")}
)
