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
    """The gated blocks on rows of samples, each with its past in front: [rows, past + stride] -> [rows, stride].

    A row's past is made again from the waveform's: cheaper than a dozen states, and the same. A kernel is a band matrix: products
    of small matrices, and nothing to cut to length.
    """

    def __init__(self, generator: Generator, past: int) -> None:
        super().__init__()
        self.past = past
        width = past + generator.config.stride
        weights = {name: value.detach() for name, value in generator.convnet_pre.named_parameters()}

        def band(name: str) -> nn.Linear:
            taps, bias = weights[f"{name}.weight"][0, 0], weights[f"{name}.bias"]
            matrix = sum(torch.diag(tap.expand(width - back), -back) for back, tap in enumerate(taps.flip(0)))
            return linear(cast("Tensor", matrix), bias.expand(width))

        blocks = range(generator.config.prenet_layers)
        self.filters = nn.ModuleList(band(f"down_convs.{k}.filter") for k in blocks)
        self.gates = nn.ModuleList(band(f"down_convs.{k}.gate") for k in blocks)

    def forward(self, x: Tensor, begun: Tensor | None) -> Tensor:
        """`begun`, like x, is 0 before the stream, where every block's own past is zero, else 1; None if no row reaches so far."""
        y = x
        for filtered, gate in zip(self.filters, self.gates, strict=True):
            y = y + torch.tanh(filtered(y)) * torch.sigmoid(gate(y))
            if begun is not None:
                y = y * begun
        return (x + y)[:, self.past :]


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


def attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Of each head in each chunk, [heads * chunks, frames, head] -> [all frames, width]. The queries are scaled already."""
    attended = torch.softmax(queries @ keys.transpose(1, 2), -1) @ values
    return attended.reshape(HEADS, -1, attended.shape[2]).transpose(0, 1).flatten(1)


class Decoder(nn.Module):
    """The transformer layer, its context kept as keys and values without bias and position.

    What is constant goes where it costs nothing: scales and biases of the queries into their product, positions and the biases
    that a normalisation's input lacks into the sum before it.
    """

    def __init__(self, generator: Generator, chunks: int) -> None:
        super().__init__()
        config, decoder = generator.config, cast("DecoderLayer", generator.mask_gen.decoder.tf_dec_layers[0])
        width, self.chunks, self.context = config.decoder_width, chunks, config.context
        weights = {name: value.detach() for name, value in decoder.named_parameters()}
        positions = generator.mask_gen.decoder.pos_enc.pe[0, : config.context + config.chunk]
        now = positions[-config.chunk :]
        scale = (width // HEADS) ** -0.5
        query, own = weights["self_attn.in_proj_weight"].split([width, 2 * width])
        query_bias, own_bias = weights["self_attn.in_proj_bias"].split([width, 2 * width])
        self.own = constant(torch.cat([scale * query, own]).t())
        self.own_places = constant(pad(scale * (now @ query.t() + query_bias), (0, 2 * width)).repeat(chunks, 1))
        query, cross = weights["multihead_attn.in_proj_weight"].split([width, 2 * width])
        cross_query_bias, cross_bias = weights["multihead_attn.in_proj_bias"].split([width, 2 * width])
        self.cross = constant(cross.t())
        # Keys and values of both, heads first: what they owe to the place in the window and the biases.
        places = torch.cat([positions @ own.t() + own_bias, positions @ cross.t() + cross_bias], 1)
        self.places = constant(places.reshape(len(positions), 4 * HEADS, -1).transpose(0, 1).repeat_interleave(chunks, 0))
        self.windows = torch.arange(chunks)[:, None] * config.chunk + torch.arange(len(positions))

        # A product adds what is to be normalised; the bias that it lacks is in there already, and is taken out of what else
        # hears that.
        self.own_out = constant(weights["self_attn.out_proj.weight"].t())
        self.residual = constant((now + weights["self_attn.out_proj.bias"]).repeat(chunks, 1))
        self.cross_out = constant(weights["multihead_attn.out_proj.weight"].t())
        bias = weights["multihead_attn.out_proj.bias"]
        self.norm1 = norm(weights["norm1.weight"], weights["norm1.bias"] + bias)
        self.cross_query = linear(scale * query, scale * (cross_query_bias - query @ bias))
        bias = weights["linear2.bias"]
        self.norm2 = norm(weights["norm2.weight"], weights["norm2.bias"] + bias)
        self.linear1 = linear(weights["linear1.weight"], weights["linear1.bias"] - weights["linear1.weight"] @ bias)
        self.linear2 = constant(weights["linear2.weight"].t())

    def forward(self, memory: Tensor, target: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """(memory, target [n, width], past [4 * heads, context, head]) -> what `norm3` normalises [n, width], next past."""
        entered = torch.cat([torch.addmm(self.own_places, target, self.own), memory @ self.cross], 1)
        heads = entered.reshape(len(target), 5 * HEADS, -1).transpose(0, 1)
        queries, fresh = heads.split([HEADS, 4 * HEADS])
        heard = torch.cat([past, fresh], 1)
        windows = heard[:, self.windows].flatten(0, 1) if self.chunks > 1 else heard
        own_keys, own_values, keys, values = (windows + self.places).split(HEADS * self.chunks)
        attended = attention(self._by_chunks(queries), own_keys, own_values)
        x = self.norm1(torch.addmm(target + self.residual, attended, self.own_out))
        queries = self.cross_query(x).reshape(len(target), HEADS, -1).transpose(0, 1)
        attended = attention(self._by_chunks(queries), keys, values)
        x = self.norm2(torch.addmm(x, attended, self.cross_out))
        return torch.addmm(x, torch.relu(self.linear1(x)), self.linear2), heard[:, -self.context :]

    def _by_chunks(self, queries: Tensor) -> Tensor:
        return queries.reshape(HEADS * self.chunks, -1, queries.shape[2]) if self.chunks > 1 else queries


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
        # Strides, as rows: those that the prenet hears before its own, and those that a frame spans.
        before = math.ceil(2 * config.prenet_layers / config.stride)
        self.before = torch.arange(self.frames)[:, None] + torch.arange(before + 1)
        self.seen = torch.arange(self.frames)[:, None] + torch.arange(3)
        self.prenet = Prenet(generator, before * config.stride) if config.prenet_layers else None
        # A stream begins with two strides of silence. To blocks that reach back beyond them, nothing is not the same as silence.
        self.begun = constant((torch.arange(before) >= before - 2).float()[:, None]) if before > 2 else None
        self.silence = constant(generator.stream_state(1).samples[0].reshape(2, -1))
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

        self.decoder = Decoder(generator, chunk_factor)
        # The decoder's last normalisation and each narrow channel's way to its wide ones, in one: repeated numbers have the
        # same mean and variance.
        decoder = "mask_gen.decoder.tf_dec_layers.0.norm3"
        repeats = config.width // narrow
        to_mask = weights["mask_gen.proj_d2e.0.weight"][order, 0, 0]
        gain, bias = (weights[f"{decoder}.{name}"].repeat(repeats) * to_mask for name in ("weight", "bias"))
        self.mask_norm = norm(gain, bias + weights["mask_gen.proj_d2e.0.bias"][order])

        self.leave = linear(weights["out_conv.0.weight"][order, 0].t())
        # Overlap-add: a frame's strides, and before them the tail, to where they sound.
        taps = config.output_context + 1
        place = torch.cat([torch.arange(taps - 1), (torch.arange(self.frames)[:, None] + torch.arange(taps)).flatten()])
        self.overlap = constant((torch.arange(self.frames + taps - 1)[:, None] == place).float())

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
        self.row_frame = torch.stack([t, t + dilations])  # 2 * dilation frames ago is where this frame will be
        self.row_modulus = torch.stack([lengths, lengths])
        self.row_start = torch.stack([starts, starts])
        self.far_oldest = constant(torch.stack([layer.oldest for layer in self.far])[:, None])
        self.far_middle = constant(torch.stack([layer.middle for layer in self.far])[:, None])
        self.far_bias = constant(torch.stack([layer.bias for layer in self.far])[:, None])

    @property
    def in_place(self) -> list[str]:
        """Inputs that a step may write over. A ring of one layer alone could be written before it is read."""
        return ["state_ring"] if len(self.far) > 1 else []

    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the states, without the prefix `state_`."""
        config = self.config
        stride, narrow = config.stride, config.decoder_width
        shapes: dict[str, tuple[int, ...]] = {"audio": (self.before.shape[1] - 1, stride)} if self.prenet else {}
        shapes |= {"begun": (len(self.begun), 1)} if self.begun is not None else {}
        shapes |= {
            "samples": (2, stride),
            "keys": (4 * HEADS, config.context, narrow // HEADS),
            "tail": (config.output_context, stride),
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
        rows = audio.reshape(self.frames, stride)
        if self.prenet:
            history = torch.cat([state["audio"], rows])
            state["audio"] = history[self.frames :]
            rows = self.prenet(history[self.before].flatten(1), self._begun(state))
            heard = torch.cat([state["samples"] + self.silence, rows])
            state["samples"] = heard[self.frames :] - self.silence
        else:
            heard = torch.cat([state["samples"], rows])
            state["samples"] = heard[self.frames :]
        frames = torch.relu(self.enter(heard[self.seen].flatten(1)))

        x = self._encode(frames, state)
        label, *to_target = (voice @ self.labels).split([width, *([narrow] * (width // narrow))], 1)
        memory, target = self.memory_bias, self.target_bias
        for part, memory_weight, target_weight in zip(x.split(narrow, 1), self.to_memory, to_target, strict=True):
            memory, target = memory + part * memory_weight, target + part * target_weight
        decoded, state["keys"] = self.decoder(torch.relu(memory), torch.relu(target), state["keys"])
        mask = x * label + torch.relu(self.mask_norm(decoded.repeat(1, width // narrow)))

        rows = torch.cat([state["tail"], self.leave(frames * mask).reshape(-1, stride)])
        made, state["tail"] = (self.overlap @ rows).split([self.frames, self.config.output_context])
        return torch.tanh(made.reshape(1, -1)), *state.values()

    def _begun(self, state: dict[str, Tensor]) -> Tensor | None:
        """What the prenet is told of where the stream began."""
        if self.begun is None:
            return None
        history = torch.cat([state["begun"] + self.begun, torch.ones(self.frames, 1)])
        state["begun"] = history[self.frames :] - self.begun
        return history[self.before].expand(-1, -1, self.config.stride).flatten(1)

    def _encode(self, x: Tensor, state: dict[str, Tensor]) -> Tensor:
        for layer in self.near:
            name = f"layer_{layer.dilation}"
            heard, far = torch.cat([state[name], x]), layer.dilation
            oldest, state[name] = heard.split([self.frames, 2 * far])
            x = layer(x, oldest * layer.oldest + (heard[far : far + self.frames] * layer.middle + layer.bias))
        if not self.far:
            return x
        ring, frame = state["ring"], state["frame"].long()
        rows = (frame + self.row_frame) % self.row_modulus + self.row_start
        oldest, middle = rows.unbind(0)
        owed = ring[oldest] * self.far_oldest + (ring[middle] * self.far_middle + self.far_bias)
        entered = []
        for layer, past in zip(self.far, owed.flatten(0, 1).split(self.frames), strict=True):
            entered.append(x)
            x = layer(x, past)
        # The oldest rows are the ones that no later step hears.
        state["ring"] = ring.index_put((oldest.flatten(),), torch.cat(entered))
        state["frame"] = ((frame + self.frames) % self.ring_period).float()
        return x


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
        torch.onnx.export(graph, inputs, path, opset_version=OPSET, dynamo=False, input_names=names, output_names=outputs)
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
        "in_place": graph.in_place,
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
