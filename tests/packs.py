"""Small streaming graphs whose output is known by a formula, and packs of them, for tests."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from models.pack import PackManifest, VoiceCard, write_pack

FLOAT = TensorProto.FLOAT


def value(name: str, shape: Sequence[int | str], dtype: int = FLOAT) -> onnx.ValueInfoProto:
    """A graph input or output."""
    return helper.make_tensor_value_info(name, dtype, list(shape))


def constant(name: str, array: object, dtype: type = np.float32) -> onnx.TensorProto:
    """An initializer."""
    return numpy_helper.from_array(np.asarray(array, dtype), name)


def stream_metadata(
    *, voices: Sequence[str], sample_rate: int, chunk: int, lookahead: int, pitch_controls: bool = False
) -> dict[str, object]:
    """The metadata that a good graph carries; a test may spoil it."""
    return {
        "format": 1,
        "kind": "stream",
        "sample_rate": sample_rate,
        "chunk": chunk,
        "lookahead": lookahead,
        "receptive_field": lookahead,
        "voices": list(voices),
        "controls": ["voice", "pitch_ratio", "formant_ratio"] if pitch_controls else ["voice"],
    }


def model_proto(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: Sequence[onnx.TensorProto] = (),
    metadata: object = None,
    opsets: Sequence[onnx.OperatorSetIdProto] = (),
) -> onnx.ModelProto:
    """A model with `metadata` as JSON in its properties (a str goes in as it is, None not at all)."""
    graph = helper.make_graph(list(nodes), "stream", list(inputs), list(outputs), list(constants))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), *opsets], ir_version=9)
    if metadata is not None:
        text = metadata if isinstance(metadata, str) else json.dumps(metadata)
        helper.set_model_props(model, {"plugin_bridge": text})
    return model


def delay_model(
    gains: Mapping[str, float],
    *,
    sample_rate: int = 48_000,
    chunk: int = 512,
    lookahead: int = 256,
    pitch_controls: bool = False,
) -> onnx.ModelProto:
    """output[n] = input[n - lookahead] * sum(weight[v] * gains[v]); linear and time-invariant, so latency shows.

    With `pitch_controls` the graph takes both ratios and uses them, without effect on the output.
    """
    nodes = [
        helper.make_node("Concat", ["state_delay", "audio"], ["line"], axis=1),
        helper.make_node("Slice", ["line", "zero", "chunk", "axis"], ["delayed"]),
        helper.make_node("Slice", ["line", "chunk", "end", "axis"], ["next_state_delay"]),
        helper.make_node("MatMul", ["voice", "gains"], ["gain"]),
        helper.make_node("Mul", ["delayed", "gain"], ["scaled" if pitch_controls else "audio_out"]),
    ]
    inputs = [value("audio", [1, chunk]), value("voice", [1, len(gains)]), value("state_delay", [1, lookahead])]
    constants = [
        constant("zero", [0], np.int64),
        constant("chunk", [chunk], np.int64),
        constant("end", [chunk + lookahead], np.int64),
        constant("axis", [1], np.int64),
        constant("gains", [[gain] for gain in gains.values()]),
    ]
    if pitch_controls:
        nodes += [
            helper.make_node("Add", ["pitch_ratio", "formant_ratio"], ["ratios"]),
            helper.make_node("Mul", ["ratios", "nothing"], ["no_ratios"]),
            helper.make_node("Add", ["scaled", "no_ratios"], ["audio_out"]),
        ]
        inputs += [value("pitch_ratio", [1]), value("formant_ratio", [1])]
        constants.append(constant("nothing", [0.0]))
    metadata = stream_metadata(
        voices=list(gains), sample_rate=sample_rate, chunk=chunk, lookahead=lookahead, pitch_controls=pitch_controls
    )
    outputs = [value("audio_out", [1, chunk]), value("next_state_delay", [1, lookahead])]
    return model_proto(nodes, inputs, outputs, constants, metadata)


def accumulator_model(name: str, *, chunk: int = 512, decay: float = 0.999) -> onnx.ModelProto:
    """output[n] = decay * output[n - 1] + (1 - decay) * input[n]: depends on all the past, has no look-ahead."""
    rows, columns = np.indices((chunk, chunk))
    response = np.where(columns >= rows, (1 - decay) * decay ** np.maximum(columns - rows, 0).astype(np.float64), 0.0)
    nodes = [
        helper.make_node("MatMul", ["audio", "response"], ["fresh"]),
        helper.make_node("Mul", ["state_last", "decays"], ["old"]),
        helper.make_node("Add", ["fresh", "old"], ["sum"]),
        helper.make_node("ReduceSum", ["voice", "axis"], ["weight"]),
        helper.make_node("Slice", ["sum", "last", "chunk", "axis"], ["next_state_last"]),
        helper.make_node("Mul", ["sum", "weight"], ["audio_out"]),
    ]
    inputs = [value("audio", [1, chunk]), value("voice", [1, 1]), value("state_last", [1, 1])]
    constants = [
        constant("response", response),
        constant("decays", decay ** np.arange(1, chunk + 1)[None]),
        constant("axis", [1], np.int64),
        constant("last", [chunk - 1], np.int64),
        constant("chunk", [chunk], np.int64),
    ]
    metadata = stream_metadata(voices=[name], sample_rate=48_000, chunk=chunk, lookahead=0)
    outputs = [value("audio_out", [1, chunk]), value("next_state_last", [1, 1])]
    return model_proto(nodes, inputs, outputs, constants, metadata)


def write_test_pack(path: Path, model: onnx.ModelProto) -> Path:
    """A pack of this one streaming model; voices and rate are those of the model's metadata."""
    metadata = json.loads(next(prop.value for prop in model.metadata_props if prop.key == "plugin_bridge"))
    cards = [voice_card(name) for name in metadata["voices"]]
    manifest = PackManifest(title="Test", voices=cards, sample_rate=metadata["sample_rate"], licence="CC0-1.0")
    write_pack(path, manifest, {"stream.onnx": model.SerializeToString()})
    return path


def voice_card(name: str) -> VoiceCard:
    """A card that is good in every field."""
    return VoiceCard(
        name=name,
        display_name=name.title(),
        language="none",
        kind="formula",
        f0_range_hz=(60.0, 1100.0),
        licence="CC0-1.0",
        credits="The tests",
        training_data="None",
        quality={"speaker_cosine": 1.0},
    )


def write_standard_packs(folder: Path) -> None:
    """The voices that tests name: delay512, delay480, bank_a and bank_b (one pack), rate16k, accumulator."""
    write_test_pack(folder / "delay512.voice", delay_model({"delay512": 1.0}))
    write_test_pack(folder / "delay480.voice", delay_model({"delay480": 1.0}, chunk=480, lookahead=96))
    write_test_pack(folder / "bank.voice", delay_model({"bank_a": 1.0, "bank_b": 0.5}, pitch_controls=True))
    write_test_pack(folder / "rate16k.voice", delay_model({"rate16k": 1.0}, sample_rate=16_000, chunk=208, lookahead=16))
    write_test_pack(folder / "accumulator.voice", accumulator_model("accumulator"))
