"""The song engine's four networks as ONNX graphs: any number of frames, float32 in and out, weights stored small."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from models.graph import METADATA_KEY
from models.lhq.content import CONDITION, Conditioner, Conditioning
from models.lhq.denoiser import Denoiser
from models.lhq.encoders import EncoderCard
from models.lhq.features import BANDS
from models.lhq.mel import DEFAULT
from models.lhq.vocoder import Vocoder
from models.pack import Part

OPSET = 17
EXAMPLE_FRAMES = 37  # no multiple of anything: the graph must not take it for a constant
# Of the noise that a song starts from. Frames change as much as recorded ones do at 0.8; but the vocoder's noise varies by itself,
# and five recordings in two voices measured better with less: DNSMOS 2.89 and 3.09 at 1, 2.99 and 3.16 at 0.8, 3.12 and 3.21 at
# 0.25, 3.14 and 3.22 at 0; voicing agreement 0.94, 0.94, 0.98, 0.98; speaker cosine 0.77 and 0.78 at all of them.
TEMPERATURE = 0.25
SMALL = 256  # values: what is smaller stays in float32, it would save nothing


class ConditionGraph(nn.Module):
    """The condition network with its voices: weights of the voices [1, voices] in place of an embedding, coarse mel appended."""

    def __init__(self, conditioning: Conditioning, voices: list[int]) -> None:
        super().__init__()
        self.net = conditioning.condition
        self.embeddings = nn.Parameter(conditioning.voices.weight[voices].detach().clone())

    def forward(self, content: Tensor, f0: Tensor, voiced: Tensor, loudness: Tensor, shift: Tensor, voice: Tensor) -> Tensor:
        condition = self.net(content, f0, voiced, loudness, shift, voice @ self.embeddings)
        return torch.cat([condition, self.net.mel(condition, loudness)], 2)


class DenoiserGraph(nn.Module):
    """The denoiser with the coarse mel taken from behind the condition; its x clipped to the mel's range."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, z: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        config = self.denoiser.config
        known, coarse = condition.split([config.condition, config.mels], 2)
        return torch.clamp(self.denoiser(z, t, known, coarse), -1.0, 1.0)


def export_content(conditioner: Conditioner) -> onnx.ModelProto:
    """features [1, T, BANDS] -> content [1, T, C]."""
    encoder = conditioner.encoder
    inputs = {"features": torch.randn(1, EXAMPLE_FRAMES, BANDS)}
    return traced(encoder, "content", inputs, ["content"], {"receptive_frames": encoder.receptive_frames})


def export_condition(
    conditioning: Conditioning,
    voices: dict[str, int],
    encoder: EncoderCard | None = None,
    equalisers: Mapping[str, Sequence[float]] = MappingProxyType({}),
) -> onnx.ModelProto:
    """Content, pitch, loudness, shift, voice weights -> condition and coarse mel [1, T, 256 + bins]; `voices`: name -> number.

    `encoder` is where the content comes from, if it is not the pack's own; `equalisers` are those of some of the voices.
    """
    track = torch.rand(1, EXAMPLE_FRAMES)
    inputs = {
        "content": torch.randn(1, EXAMPLE_FRAMES, conditioning.config.content),
        "f0": 200 + track,
        "voiced": track,
        "loudness": track,
        "shift": torch.zeros(1),
        "voice": torch.ones(1, len(voices)),
    }
    metadata: dict[str, Any] = {"receptive_frames": conditioning.condition.receptive_frames, "voices": list(voices)}
    if encoder is not None:
        metadata["encoder"] = encoder.model_dump()
    if equalisers:
        metadata["equaliser_db"] = {name: list(levels) for name, levels in equalisers.items()}
    return traced(ConditionGraph(conditioning, list(voices.values())), "condition", inputs, ["condition"], metadata)


def export_denoiser(denoiser: Denoiser) -> onnx.ModelProto:
    """z [1, T, bins], t [1], condition [1, T, 256 + bins] -> x [1, T, bins]."""
    inputs = {
        "z": torch.randn(1, EXAMPLE_FRAMES, DEFAULT.bins),
        "t": torch.ones(1),
        "condition": torch.randn(1, EXAMPLE_FRAMES, CONDITION + DEFAULT.bins),
    }
    metadata = {"receptive_frames": denoiser.receptive_frames, "noise_scale": TEMPERATURE * denoiser.config.scale}
    return traced(DenoiserGraph(denoiser), "denoiser", inputs, ["x"], metadata)


def export_vocoder(vocoder: Vocoder) -> onnx.ModelProto:
    """Normalised mel [1, T, bins], f0 in Hz and voicing [1, T] -> log gains of the harmonics' and the noise's filters."""
    track = torch.rand(1, EXAMPLE_FRAMES)
    inputs = {"mel": torch.randn(1, EXAMPLE_FRAMES, DEFAULT.bins), "f0": 200 + track, "voiced": track}
    return traced(vocoder, "vocoder", inputs, ["harmonic", "noise"], {"receptive_frames": vocoder.receptive_frames})


def traced(
    module: nn.Module, part: Part, inputs: dict[str, Tensor], outputs: list[str], metadata: dict[str, Any]
) -> onnx.ModelProto:
    """A module as a graph. Axis 1 of everything as long as the example is the frames."""
    frames = {name: {1: "frames"} for name, x in inputs.items() if x.dim() > 1 and x.shape[1] == EXAMPLE_FRAMES}
    file = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer warns of the constants that we mean it to keep
        torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            file,  # type: ignore[arg-type]  # its annotation knows paths only
            opset_version=OPSET,
            dynamo=False,
            input_names=list(inputs),
            output_names=outputs,
            dynamic_axes=frames | {name: {1: "frames"} for name in outputs},
        )
    model = onnx.load_from_string(file.getvalue())
    about = {"format": 1, "kind": "song", "part": part, "sample_rate": DEFAULT.sample_rate, "hop": DEFAULT.hop, "mel": DEFAULT.name}
    del model.metadata_props[:]
    helper.set_model_props(model, {METADATA_KEY: json.dumps(about | metadata)})
    onnx.checker.check_model(model, full_check=True)
    return model


def half_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights stored in half precision and cast when the graph is loaded: half the file, the same speed."""
    return _with_stored(model, _half)


def integer_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Matrices stored in 8 bits with a scale for each output channel, the rest in half precision; all made whole on loading.

    The products stay in float32. In integers they would take half the time, but their scale would be that of the loudest frame
    of a slice: no frame would come out the same in another slice.
    """
    channel = _output_axes(model)
    return _with_stored(
        model, lambda name, values: _integer(name, values, channel[name]) if name in channel else _half(name, values)
    )


STORED: dict[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {"half": half_weights, "integer": integer_weights}
Stored = tuple[list[onnx.TensorProto], list[onnx.NodeProto]]


def _with_stored(model: onnx.ModelProto, store: Callable[[str, NDArray[np.float32]], Stored]) -> onnx.ModelProto:
    """The model with every large weight as the tensors and nodes that `store` makes of it."""
    small = onnx.ModelProto()
    small.CopyFrom(model)
    weights, nodes = list(small.graph.initializer), list(small.graph.node)
    del small.graph.initializer[:], small.graph.node[:]
    for weight in weights:
        if weight.data_type != TensorProto.FLOAT or np.prod(weight.dims) < SMALL:
            small.graph.initializer.append(weight)
            continue
        tensors, made = store(weight.name, numpy_helper.to_array(weight))
        small.graph.initializer.extend(tensors)
        small.graph.node.extend(made)
    small.graph.node.extend(nodes)
    onnx.checker.check_model(small, full_check=True)
    return small


def _half(name: str, values: NDArray[np.float32]) -> Stored:
    stored = numpy_helper.from_array(values.astype(np.float16), f"{name}_half")
    return [stored], [helper.make_node("Cast", [stored.name], [name], to=TensorProto.FLOAT)]


def _integer(name: str, values: NDArray[np.float32], channel: int) -> Stored:
    largest = np.maximum(np.abs(values).max(1 - channel, keepdims=True), 1e-12)
    stored = numpy_helper.from_array(np.round(values / largest * 127).astype(np.int8), f"{name}_integer")
    scale = numpy_helper.from_array((largest / 127).astype(np.float32), f"{name}_scale")
    nodes = [
        helper.make_node("Cast", [stored.name], [f"{name}_whole"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{name}_whole", scale.name], [name]),
    ]
    return [stored, scale], nodes


def _output_axes(model: onnx.ModelProto) -> dict[str, int]:
    """Matrices by which the graph multiplies from the right: name -> axis of the output's channels."""
    weights = {weight.name for weight in model.graph.initializer if len(weight.dims) == 2}
    axes = {}
    for node in model.graph.node:
        if node.op_type in ("MatMul", "Gemm") and node.input[1] in weights:
            axes[node.input[1]] = 0 if any(a.name == "transB" and a.i for a in node.attribute) else 1
    return axes
