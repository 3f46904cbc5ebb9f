"""Small song engines of which it is known what they do, for tests: the voice sings as loud as its source, at its pitch.

Every graph sees a frame or two to each side, with weights drawn at random, so that a slice without its context is another one.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import helper
from packs import constant, model_proto, value, voice_card

from models.lhq.features import BANDS
from models.lhq.mel import DEFAULT
from models.lhq.synthesis import GAINS, NOISE_STEPS
from models.pack import PackManifest, VoiceCard, write_pack

CONTENT, CONDITION, BINS = 16, 32, DEFAULT.bins
LOUDNESS = 12.0  # nepers that stand for 1 in the graphs' channels
REACH = {"content": 2, "condition": 1, "denoiser": 1, "vocoder": 1}


def song_metadata(part: str, voices: Sequence[str]) -> dict[str, object]:
    """The metadata that a good graph carries; a test may spoil it."""
    return {
        "format": 1,
        "kind": "song",
        "part": part,
        "sample_rate": 40_000,
        "hop": 400,
        "receptive_frames": REACH[part],
        "mel": "default",
        "voices": list(voices) if part == "condition" else [],
    }


def weights(part: str, inputs: int, outputs: int, size: float) -> np.ndarray:
    """Convolution over 2 * reach + 1 frames [outputs, inputs, frames]; what makes output 0 from input 0 is the identity."""
    reach = REACH[part]
    drawn = np.random.default_rng(inputs).standard_normal((outputs, inputs, 2 * reach + 1)) * size
    drawn[0] = 0
    drawn[0, 0, reach] = 1
    return drawn


def convolution(part: str, source: str, result: str) -> list[onnx.NodeProto]:
    """[1, T, C] -> [1, T, C']"""
    reach = REACH[part]
    return [
        helper.make_node("Transpose", [source], [f"{source}_t"], perm=[0, 2, 1]),
        helper.make_node("Conv", [f"{source}_t", f"{result}_w"], [f"{result}_t"], pads=[reach, reach]),
        helper.make_node("Transpose", [f"{result}_t"], [result], perm=[0, 2, 1]),
    ]


def track(name: str, result: str) -> onnx.NodeProto:
    """[1, T] -> [1, T, 1]"""
    return helper.make_node("Unsqueeze", [name, "last"], [result])


def song_graphs(gains_db: Mapping[str, float]) -> dict[str, onnx.ModelProto]:
    """Each voice sings so many dB louder than its source, a little coloured by content, noise and pitch."""
    voices = list(gains_db)
    graphs = {}

    def add(part: str, nodes: list, inputs: list, outputs: list, constants: list) -> None:
        graphs[part] = model_proto(nodes, inputs, outputs, constants, song_metadata(part, voices))

    add(
        "content",
        convolution("content", "features", "content"),
        [value("features", [1, "T", BANDS])],
        [value("content", [1, "T", CONTENT])],
        [constant("content_w", weights("content", BANDS, CONTENT, 0.01))],
    )
    add(
        "condition",
        [
            track("loudness", "loud"),
            track("f0", "hz"),
            track("voiced", "sung"),
            helper.make_node("Div", ["loud", "neper"], ["level"]),
            helper.make_node("Div", ["hz", "khz"], ["height"]),
            helper.make_node("MatMul", ["voice", "voice_levels"], ["voice_level"]),
            helper.make_node("Add", ["level", "voice_level"], ["wanted"]),
            helper.make_node("Mul", ["shift", "nothing"], ["no_shift"]),
            helper.make_node("Add", ["sung", "no_shift"], ["voicing"]),
            helper.make_node("Concat", ["wanted", "height", "voicing", "content"], ["all"], axis=2),
            *convolution("condition", "all", "condition"),
        ],
        [
            value("content", [1, "T", CONTENT]),
            *(value(name, [1, "T"]) for name in ("f0", "voiced", "loudness")),
            value("shift", [1]),
            value("voice", [1, len(voices)]),
        ],
        [value("condition", [1, "T", CONDITION])],
        [
            constant("last", [2], np.int64),
            constant("neper", LOUDNESS),
            constant("khz", 1000.0),
            constant("nothing", 0.0),
            constant("voice_levels", [[gain * np.log(10) / 20 / LOUDNESS] for gain in gains_db.values()]),
            constant("condition_w", weights("condition", CONTENT + 3, CONDITION, 0.05)),
        ],
    )
    add(
        "denoiser",
        [
            helper.make_node("Mul", ["z", "t"], ["noise"]),
            helper.make_node("Concat", ["condition", "noise"], ["all"], axis=2),
            *convolution("denoiser", "all", "x_open"),
            helper.make_node("Clip", ["x_open", "low", "high"], ["x"]),
        ],
        [value("z", [1, "T", BINS]), value("t", [1]), value("condition", [1, "T", CONDITION])],
        [value("x", [1, "T", BINS])],
        [constant("low", -1.0), constant("high", 1.0), constant("x_open_w", weights("denoiser", CONDITION + BINS, BINS, 0.02))],
    )
    # All gains follow channel 0, and are a little moved by the others.
    harmonic, noise = weights("vocoder", BINS, GAINS, 0.02), weights("vocoder", BINS + 1, NOISE_STEPS * GAINS, 0.02)[:, :BINS]
    for one in (harmonic, noise):
        one[:, 0] = 0
        one[:, 0, REACH["vocoder"]] = LOUDNESS
    add(
        "vocoder",
        [
            helper.make_node("Transpose", ["mel"], ["mel_t"], perm=[0, 2, 1]),
            helper.make_node("Conv", ["mel_t", "harmonic_w"], ["harmonic_t"], pads=[1, 1]),
            helper.make_node("Transpose", ["harmonic_t"], ["harmonic"], perm=[0, 2, 1]),
            helper.make_node("Conv", ["mel_t", "noise_w"], ["hiss_t"], pads=[1, 1]),
            helper.make_node("Transpose", ["hiss_t"], ["hiss"], perm=[0, 2, 1]),
            track("voiced", "sung"),
            track("f0", "hz"),
            helper.make_node("Mul", ["sung", "softer"], ["soft"]),
            helper.make_node("Mul", ["hz", "nothing"], ["no_hz"]),
            helper.make_node("Sum", ["hiss", "soft", "no_hz"], ["noise"]),
        ],
        [value("mel", [1, "T", BINS]), value("f0", [1, "T"]), value("voiced", [1, "T"])],
        [value("harmonic", [1, "T", GAINS]), value("noise", [1, "T", NOISE_STEPS * GAINS])],
        [
            constant("last", [2], np.int64),
            constant("softer", -4.0),
            constant("nothing", 0.0),
            constant("harmonic_w", harmonic),
            constant("noise_w", noise),
        ],
    )
    return graphs


def write_song_pack(
    path: Path,
    gains_db: Mapping[str, float],
    graphs: Mapping[str, onnx.ModelProto] | None = None,
    cards: Sequence[VoiceCard] | None = None,
) -> Path:
    """A pack whose song engine `lhq` has these voices; `mobile` has the same graphs."""
    graphs = graphs or song_graphs(gains_db)
    members = {f"song_lhq_{part}.onnx": graph.SerializeToString() for part, graph in graphs.items()}
    parts = {part: f"song_lhq_{part}.onnx" for part in graphs}
    cards = list(cards or map(voice_card, gains_db))
    manifest = PackManifest(
        title="Test", voices=cards, sample_rate=40_000, licence="CC0-1.0", songs={"lhq": parts, "mobile": parts}
    )
    write_pack(path, manifest, members)
    return path
