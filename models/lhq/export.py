"""The song engine's four networks as ONNX graphs: any number of frames, float32 in and out, weights stored small."""

from __future__ import annotations

import io
import json
import logging
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic  # type: ignore[import-untyped]
from torch import Tensor, nn

from models.graph import METADATA_KEY
from models.lhq.content import CONDITION, Conditioner
from models.lhq.denoiser import Denoiser
from models.lhq.features import BANDS
from models.lhq.mel import DEFAULT
from models.lhq.vocoder import Vocoder
from models.pack import Part

OPSET = 17
EXAMPLE_FRAMES = 37  # no multiple of anything: the graph must not take it for a constant
SMALL = 256  # values: what is smaller stays in float32, it would save nothing


class ConditionGraph(nn.Module):
    """The condition network with its voices: weights of the voices [1, voices] in place of an embedding, coarse mel appended."""

    def __init__(self, conditioner: Conditioner, voices: list[int]) -> None:
        super().__init__()
        self.net = conditioner.condition
        self.embeddings = nn.Parameter(conditioner.voices.weight[voices].detach().clone())

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


def export_condition(conditioner: Conditioner, voices: dict[str, int]) -> onnx.ModelProto:
    """Content, pitch, loudness, shift, voice weights -> condition and coarse mel [1, T, 256 + bins]; `voices`: name -> number."""
    track = torch.rand(1, EXAMPLE_FRAMES)
    inputs = {
        "content": torch.randn(1, EXAMPLE_FRAMES, conditioner.config.content),
        "f0": 200 + track,
        "voiced": track,
        "loudness": track,
        "shift": torch.zeros(1),
        "voice": torch.ones(1, len(voices)),
    }
    metadata = {"receptive_frames": conditioner.condition.receptive_frames, "voices": list(voices)}
    return traced(ConditionGraph(conditioner, list(voices.values())), "condition", inputs, ["condition"], metadata)


def export_denoiser(denoiser: Denoiser) -> onnx.ModelProto:
    """z [1, T, bins], t [1], condition [1, T, 256 + bins] -> x [1, T, bins]."""
    inputs = {
        "z": torch.randn(1, EXAMPLE_FRAMES, DEFAULT.bins),
        "t": torch.ones(1),
        "condition": torch.randn(1, EXAMPLE_FRAMES, CONDITION + DEFAULT.bins),
    }
    metadata = {"receptive_frames": denoiser.receptive_frames, "noise_scale": denoiser.config.scale}
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
    small = onnx.ModelProto()
    small.CopyFrom(model)
    casts = []
    for weight in small.graph.initializer:
        if weight.data_type == TensorProto.FLOAT and np.prod(weight.dims) >= SMALL:
            name = weight.name
            values = numpy_helper.to_array(weight).astype(np.float16)
            weight.CopyFrom(numpy_helper.from_array(values, f"{name}_half"))
            casts.append(helper.make_node("Cast", [weight.name], [name], to=TensorProto.FLOAT))
    nodes = list(small.graph.node)
    del small.graph.node[:]
    small.graph.node.extend([*casts, *nodes])
    onnx.checker.check_model(small, full_check=True)
    return small


def integer_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Dynamic int8 of the matrix products, per output channel; the rest in half precision."""
    with tempfile.TemporaryDirectory() as folder:
        plain, small = Path(folder) / "plain.onnx", Path(folder) / "small.onnx"
        onnx.save(model, plain)
        logging.disable(logging.WARNING)  # it advises a preparation that this graph has no need of
        try:
            quantize_dynamic(plain, small, weight_type=QuantType.QInt8, per_channel=True, nodes_to_quantize=matrix_products(model))
        finally:
            logging.disable(logging.NOTSET)
        return half_weights(onnx.load(small))


def matrix_products(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes that multiply with a matrix of the network's."""
    weights = {weight.name for weight in model.graph.initializer}
    return [node.name for node in model.graph.node if node.op_type == "MatMul" and weights & set(node.input)]


STORED: dict[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {"half": half_weights, "integer": integer_weights}
