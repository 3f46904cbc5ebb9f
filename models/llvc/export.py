"""The generator as a streaming ONNX graph: the same numbers as `Generator.step`, several times faster.

Where the time goes in a step of 13 frames is not arithmetic but moving and re-ordering a megabyte of past. Hence:

- frames are rows, [frames, channels]: a 1x1 convolution is one matrix product, and normalisation needs no transposition;
- what the far encoder layers owe to the past is gathered beforehand for all of them at once, and their pasts lie in one ring
  buffer, in which a step writes its own rows only;
- the decoder keeps keys and values of its context, not the frames. They are linear in the frames, so what a frame's place in the
  window adds to them is a table: W (x + p) = W x + W p;
- each voice's label is a row of a table: the embedding itself is not in the graph.

All states start at zero. Where the network's own start is not zero (the prenet's answer to silence), the difference is kept.
"""

from __future__ import annotations

import json
import math
import tempfile
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import onnx
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic  # type: ignore[import-untyped]
from torch import Tensor, nn
from torch.nn.functional import pad

from models.graph import METADATA_KEY
from models.llvc.network import HEADS, DecoderLayer, EncoderLayer, Generator

OPSET = 17
# Matrices from this size on become integers: those of the encoder and the decoder. The waveform's own two, smaller, are where
# eight bits would be heard at once.
LEAST_INTEGER_WEIGHTS = 50_000


def constant(values: Tensor) -> nn.Parameter:
    """A table of the graph."""
    return nn.Parameter(values.detach().clone().contiguous(), requires_grad=False)


def grouped_order(width: int, narrow: int) -> Tensor:
    """[width] an order of the wide channels in which those of one narrow channel lie `narrow` apart, not side by side.

    A grouped convolution is then a product of whole halves.
    """
    return torch.arange(width).reshape(narrow, -1).t().flatten()


class Prenet(nn.Module):
    """The gated blocks over past and fresh samples [1, 1, 2 * layers + samples] -> [1, 1, samples].

    Each block's past is made again from the waveform's: cheaper than a dozen states, and the same, as zeros before the start
    are what a stream has heard there.
    """

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList()
        weights = dict(generator.convnet_pre.named_parameters())
        # The third channel is the sample itself, so that none of the three has to be cut to length.
        same = torch.tensor([[[0.0, 0.0, 1.0]]])
        for k in range(len(generator.convnet_pre.down_convs)):
            both = [f"down_convs.{k}.filter", f"down_convs.{k}.gate"]
            convolution = nn.Conv1d(1, 3, 3)
            convolution.weight = constant(torch.cat([*(weights[f"{name}.weight"] for name in both), same]))
            convolution.bias = constant(torch.cat([*(weights[f"{name}.bias"] for name in both), torch.zeros(1)]))
            self.convolutions.append(convolution)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for convolution in self.convolutions:
            filtered, gate, same = convolution(y).split(1, 1)
            y = same + torch.tanh(filtered) * torch.sigmoid(gate)
        return x[..., 2 * len(self.convolutions) :] + y


class Layer(nn.Module):
    """An encoder layer on frames as rows, channels re-ordered; `oldest`, `middle` and `newest` are its depthwise taps [width]."""

    def __init__(self, layer: EncoderLayer, dilation: int, order: Tensor) -> None:
        super().__init__()
        weights = {name: value.detach()[order] for name, value in layer.layers.named_parameters()}
        self.dilation = dilation
        self.oldest, self.middle, self.newest = (constant(tap[:, 0]) for tap in weights["0.weight"].unbind(2))
        self.bias = constant(weights["0.bias"])
        self.norm = norm(weights["1.weight"], weights["1.bias"])
        self.pointwise = linear(weights["3.weight"][:, order, 0], weights["3.bias"])
        self.last_norm = norm(weights["4.weight"], weights["4.bias"])

    def forward(self, x: Tensor, owed: Tensor) -> Tensor:
        """`owed`: what the two older taps and the bias give."""
        h = torch.relu(self.norm(x * self.newest + owed))
        return x + torch.relu(self.last_norm(self.pointwise(h)))


class Attention(nn.Module):
    """Attention of whole chunks to their windows, keys and values of the context cached without bias and position."""

    def __init__(self, attention: nn.MultiheadAttention, positions: Tensor, chunk: int, chunks: int) -> None:
        super().__init__()
        width = positions.shape[1]
        self.head = width // HEADS
        self.windows = torch.arange(chunks)[:, None] * chunk + torch.arange(len(positions))
        # The scores' scale goes into the queries.
        query, keys_values = attention.in_proj_weight.split([width, 2 * width])
        query_bias, keys_values_bias = attention.in_proj_bias.split([width, 2 * width])
        self.query, self.query_bias = query * self.head**-0.5, query_bias * self.head**-0.5
        self.keys_values = keys_values
        self.places = constant(positions @ keys_values.t() + keys_values_bias)
        self.out = attention.out_proj

    def forward(self, queries: Tensor, fresh: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """(queries [n, width], keys and values [n, 2 * width], past [context, 2 * width]) -> attended [n, width], next past."""
        heard = torch.cat([past, fresh])
        chunks, window = self.windows.shape
        windows = heard[self.windows] + self.places
        keys, values = windows.reshape(chunks, window, 2 * HEADS, self.head).transpose(1, 2).split(HEADS, 1)
        queries = queries.reshape(chunks, -1, HEADS, self.head).transpose(1, 2)
        attended = torch.softmax(queries @ keys.transpose(2, 3), -1) @ values
        return self.out(attended.transpose(1, 2).reshape(len(fresh), -1)), heard[-len(past) :]


class StepGraph(nn.Module):
    """One step of `chunk_factor` chunks, for export. `forward` takes the inputs and states in the order of `input_names`."""

    def __init__(self, generator: Generator, chunk_factor: int) -> None:
        super().__init__()
        config = generator.config
        self.config = config
        self.frames = chunk_factor * config.chunk
        self.samples = self.frames * config.stride
        weights = {name: value.detach() for name, value in generator.state_dict().items()}
        order = grouped_order(config.width, config.decoder_width)
        self.prenet = Prenet(generator) if config.prenet_layers else None
        self.silence = constant(generator.stream_state(1).samples[0])
        start = torch.arange(self.frames)[:, None] * config.stride
        self.seen = start + torch.arange(3 * config.stride)
        self.enter = linear(weights["in_conv.0.weight"][order, 0])

        encoder = cast("Iterable[EncoderLayer]", generator.mask_gen.encoder.dcc_layers.values())
        layers = [Layer(layer, 2**i, order) for i, layer in enumerate(encoder)]
        self.layers = nn.ModuleList(layers)
        # Near layers hear the step itself through their older taps, far ones the past alone.
        self.near = [layer for layer in layers if layer.dilation < self.frames]
        self.far = [layer for layer in layers if layer.dilation >= self.frames]
        if self.far:
            self._lay_out_ring()

        # Pairs of wide channels to a narrow one, the label worked into those that make the target.
        narrow = config.decoder_width
        labels = generator.labels().detach()[:, order]
        to_target = weights["mask_gen.proj_e2d_l.0.weight"][:, :, 0].t().flatten()
        self.labels = constant(torch.cat([labels, labels * to_target], 1))
        self.to_memory = [constant(row) for row in weights["mask_gen.proj_e2d_e.0.weight"][:, :, 0].t()]
        self.memory_bias = constant(weights["mask_gen.proj_e2d_e.0.bias"])
        self.target_bias = constant(weights["mask_gen.proj_e2d_l.0.bias"])
        self.to_mask = constant(weights["mask_gen.proj_d2e.0.weight"][order, 0, 0].reshape(-1, narrow))
        self.mask_bias = constant(weights["mask_gen.proj_d2e.0.bias"][order].reshape(-1, narrow))

        self.decoder = cast("DecoderLayer", generator.mask_gen.decoder.tf_dec_layers[0])
        positions = weights["mask_gen.decoder.pos_enc.pe"][0, : config.context + config.chunk]
        self.places = constant(positions[-config.chunk :])
        self.own = Attention(self.decoder.self_attn, positions, config.chunk, chunk_factor)
        self.cross = Attention(self.decoder.multihead_attn, positions, config.chunk, chunk_factor)
        self.own_enter = linear(torch.cat([self.own.query, self.own.keys_values]))
        self.own_places = constant(self.places @ self.own.query.t() + self.own.query_bias)
        self.cross_query = linear(self.cross.query, self.cross.query_bias)
        self.cross_enter = linear(self.cross.keys_values)
        self.leave = linear(weights["out_conv.0.weight"][order, 0].t())

    def _lay_out_ring(self) -> None:
        """Tables to find the far layers' rows, all in one buffer: frame t of a layer lies at t modulo 2 * dilation in its part.

        Rows come in the order (oldest, middle tap), layer, frame.
        """
        dilations = torch.tensor([layer.dilation for layer in self.far])[:, None]
        t = torch.arange(self.frames).expand(len(self.far), -1)
        lengths = (2 * dilations).expand_as(t)
        starts = (2 * (dilations.cumsum(0) - dilations)).expand_as(t)
        self.ring_rows = int(2 * dilations.sum())
        self.ring_period = int(2 * dilations.max())
        self.row_frame = torch.stack([t, t + dilations]).flatten()  # 2 * dilation frames ago is where this frame will be
        self.row_modulus = lengths.repeat(2, 1).flatten()
        self.row_start = starts.repeat(2, 1).flatten()
        self.far_oldest = constant(torch.stack([layer.oldest for layer in self.far])[:, None])
        self.far_middle = constant(torch.stack([layer.middle for layer in self.far])[:, None])
        self.far_bias = constant(torch.stack([layer.bias for layer in self.far])[:, None])

    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the states, without the prefix `state_`."""
        config = self.config
        shapes: dict[str, tuple[int, ...]] = {"audio": (1, 2 * config.prenet_layers)} if self.prenet else {}
        shapes |= {
            "samples": (1, 2 * config.stride),
            "keys": (config.context, 2 * config.decoder_width),
            "memory_keys": (config.context, 2 * config.decoder_width),
            "tail": (1, config.output_context * config.stride),
        }
        shapes |= {f"layer_{layer.dilation}": (2 * layer.dilation, config.width) for layer in self.near}
        if self.far:
            shapes |= {"frame": (1,), "ring": (self.ring_rows, config.width)}
        return shapes

    def input_names(self) -> list[str]:
        return ["audio", "voice", *(f"state_{name}" for name in self.state_shapes())]

    def forward(self, audio: Tensor, voice: Tensor, *states: Tensor) -> Any:
        state = dict(zip(self.state_shapes(), states, strict=True))
        stride, width, narrow = self.config.stride, self.config.width, self.config.decoder_width
        heard = audio
        if self.prenet:
            history = torch.cat([state["audio"], audio], 1)
            state["audio"] = history[:, -2 * self.config.prenet_layers :]
            heard = self.prenet(history[None])[0]
        heard = torch.cat([state["samples"] + self.silence, heard], 1)
        state["samples"] = heard[:, -2 * stride :] - self.silence
        frames = torch.relu(self.enter(heard[0][self.seen]))

        x = self._encode(frames, state)
        label, *to_target = (voice @ self.labels).split([width, *([narrow] * (width // narrow))], 1)
        memory, target = self.memory_bias, self.target_bias
        for part, memory_weight, target_weight in zip(x.split(narrow, 1), self.to_memory, to_target, strict=True):
            memory, target = memory + part * memory_weight, target + part * target_weight
        decoded = self._decode(torch.relu(memory), torch.relu(target), state)
        mask = x * label + torch.relu(decoded[:, None] * self.to_mask + self.mask_bias).flatten(1)

        # Overlap-add: rows, each a stride longer than the sum, laid end to end and cut at the sum's length, step by a stride.
        rows = self.leave(frames * mask)
        length = (self.frames + self.config.output_context) * stride
        rows = pad(rows, (0, length + stride - rows.shape[1])).reshape(1, -1)[:, : self.frames * length]
        added = rows.reshape(self.frames, length).sum(0, keepdim=True) + pad(state["tail"], (0, self.samples))
        state["tail"] = added[:, self.samples :]
        return torch.tanh(added[:, : self.samples]), *state.values()

    def _encode(self, x: Tensor, state: dict[str, Tensor]) -> Tensor:
        for layer in self.near:
            name, far = f"layer_{layer.dilation}", layer.dilation
            heard = torch.cat([state[name], x])
            oldest, state[name] = heard.split([self.frames, 2 * far])
            owed = oldest * layer.oldest + (heard[far : far + self.frames] * layer.middle + layer.bias)
            x = layer(x, owed)
        if not self.far:
            return x
        ring, frame = state["ring"], state["frame"].long()
        rows = (frame + self.row_frame) % self.row_modulus + self.row_start
        oldest, middle = rows.chunk(2)
        shape = (len(self.far), self.frames, ring.shape[1])
        owed = ring[oldest].reshape(shape) * self.far_oldest + (ring[middle].reshape(shape) * self.far_middle + self.far_bias)
        entered = []
        for layer, past in zip(self.far, owed.flatten(0, 1).split(self.frames), strict=True):
            entered.append(x)
            x = layer(x, past)
        # The oldest rows are the ones that no later step hears.
        state["ring"] = ring.index_put((oldest,), torch.cat(entered))
        state["frame"] = ((frame + self.frames) % self.ring_period).float()
        return x

    def _decode(self, memory: Tensor, target: Tensor, state: dict[str, Tensor]) -> Tensor:
        width, decoder = target.shape[1], self.decoder
        shape = (-1, self.config.chunk, width)
        queries, fresh = self.own_enter(target).split([width, 2 * width], 1)
        queries = (queries.reshape(shape) + self.own_places).reshape(-1, width)
        x = (target.reshape(shape) + self.places).reshape(-1, width)
        attended, state["keys"] = self.own(queries, fresh, state["keys"])
        x = decoder.norm1(x + attended)
        attended, state["memory_keys"] = self.cross(self.cross_query(x), self.cross_enter(memory), state["memory_keys"])
        x = decoder.norm2(x + attended)
        return decoder.norm3(x + decoder.linear2(torch.relu(decoder.linear1(x))))  # type: ignore[no-any-return]


def norm(weight: Tensor, bias: Tensor) -> nn.LayerNorm:
    """Normalisation with these gains and offsets."""
    layer = nn.LayerNorm(len(weight))
    layer.weight, layer.bias = constant(weight), constant(bias)
    return layer


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """A layer of these weights."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight = constant(weight)
    if bias is not None:
        layer.bias = constant(bias)
    return layer


@dataclass(frozen=True)
class ExportOptions:
    """`chunk_factor` chunks a step: more are faster and later. `integer`: int8 weights, faster and smaller, and less exact."""

    chunk_factor: int = 1
    integer: bool = False


def export_stream(generator: Generator, voices: list[str], options: ExportOptions) -> bytes:
    """The streaming graph as ONNX bytes. `voices` are named in the order of the generator's."""
    config = generator.config
    if len(voices) != config.voices:
        raise ValueError(f"expected names for {config.voices} voices, got {voices}")
    with torch.no_grad():
        graph = StepGraph(generator.float().eval(), options.chunk_factor).eval()
    shapes = graph.state_shapes()
    weights = torch.zeros(1, len(voices))
    weights[0, 0] = 1.0
    inputs = (torch.zeros(1, graph.samples), weights, *(torch.zeros(shape) for shape in shapes.values()))
    names, outputs = graph.input_names(), ["audio_out", *(f"next_state_{name}" for name in shapes)]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer warns of the constants that we mean it to keep
        path = str(Path(folder) / "graph.onnx")
        torch.onnx.export(
            graph, inputs, path, opset_version=OPSET, dynamo=False, input_names=names, output_names=outputs
        )
        model = onnx.load(path)
        if options.integer:
            model = integer_model(model, Path(folder))
    metadata = {
        "format": 1,
        "kind": "stream",
        "sample_rate": config.sample_rate,
        "chunk": graph.samples,
        "lookahead": config.stride,
        "receptive_field": config.receptive_field,
        "voices": voices,
        "controls": ["voice"],
    }
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(metadata)})
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def integer_model(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """The graph with its large matrices as int8, a scale for each output channel; activations are scaled as they come."""
    sizes = {weight.name: math.prod(weight.dims) for weight in model.graph.initializer}
    products = [node for node in model.graph.node if node.op_type in ("Gemm", "MatMul")]
    large = [node for node in products if sizes.get(node.input[1], 0) >= LEAST_INTEGER_WEIGHTS]
    # The quantiser first splits each Gemm into a product and a sum, and names the product so.
    names = [f"{node.name}_MatMul" if node.op_type == "Gemm" else node.name for node in large]
    # Every shape is known already, so its own preparation, which it would else ask for on the terminal, has nothing to do.
    onnx.helper.set_model_props(model, {"onnx.quant.pre_process": "onnxruntime.quant"})
    small = folder / "small.onnx"
    quantize_dynamic(model, small, weight_type=QuantType.QInt8, per_channel=True, nodes_to_quantize=names)
    return onnx.load(small)
