"""The song engine at run time: slices of a take are the take, and graphs that are off are refused in one sentence."""

import itertools
import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from packs import model_proto, value
from song_packs import song_graphs, song_metadata, write_song_pack

from dsp.equaliser import BANDS as EQUALISER_BANDS
from models.graph import ModelError
from models.lhq.features import BANDS
from models.lhq.song import HOP, PARTS, Frames, SongModel
from models.pack import PackError, VoicePack


def load(graphs: dict[str, onnx.ModelProto]) -> SongModel:
    names = {part: f"{part}.onnx" for part in PARTS}
    return SongModel.from_bytes({part: graph.SerializeToString() for part, graph in graphs.items()}, names, "test.voice")


def take(frames: int, seed: int = 0) -> Frames:
    random = np.random.default_rng(seed)
    f0 = 220 * 2 ** np.cumsum(random.normal(0, 0.01, frames))
    features = random.normal(-5, 1, (frames, BANDS)).astype(np.float32)
    loudness = random.normal(-2, 0.3, frames).astype(np.float32)
    return Frames.of(features, f0, random.random(frames) < 0.8, loudness)


ONE = np.ones(1, np.float32)


@pytest.mark.parametrize("steps", [1, 3])
def test_slices_are_the_take_in_one_piece(steps):
    model, song = load(song_graphs({"a": 0.0})), take(400)
    whole = model.convert(song, 0, 400, ONE, steps=steps, seed=3)
    assert len(whole) == 400 * HOP and np.std(whole) > 0.01
    cuts = [0, 1, 37, 120, 121, 290, 400]
    for start, stop in itertools.pairwise(cuts):
        part = model.convert(song, start, stop, ONE, steps=steps, seed=3)
        assert np.max(np.abs(part - whole[start * HOP : stop * HOP])) <= 1e-6


def test_without_its_context_a_slice_is_another_one():
    """The networks of these tests do see their neighbours: else the test above could not fail."""
    model, song = load(song_graphs({"a": 0.0})), take(200)
    whole = model.convert(song, 0, 200, ONE)
    features = song.features.copy()
    features[[97, 104]] += 3  # beyond the vocoder's own reach of the frames 100 and 101, and within that of all graphs
    changed = model.convert(Frames.of(features, song.f0, song.voiced > 0, song.loudness), 0, 200, ONE)
    assert np.max(np.abs(changed - whole)[100 * HOP : 102 * HOP]) > 1e-5


def test_the_same_seed_is_the_same_sound_and_another_one_another():
    model, song = load(song_graphs({"a": 0.0})), take(60)
    first, again, other = (model.convert(song, 10, 50, ONE, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.allclose(first, other, atol=1e-3)


def test_a_pitch_beyond_the_voices_range_is_sung_but_not_shown_to_the_networks():
    model, song = load(song_graphs({"a": 0.0})), take(100)
    below, edge = (Frames.of(song.features, np.full(100, hz), np.ones(100, bool), song.loudness) for hz in (100.0, 200.0))
    # One second: bin k is k Hz.
    below, edge = (np.abs(np.fft.rfft(model.convert(x, 0, 100, ONE, range_hz=(200.0, 400.0)))) for x in (below, edge))
    # The harmonics of 100 Hz are there, those between the ones of 200 Hz too, and as loud together as those would be.
    assert below[300] > 10 * below[350]
    assert 10 * np.log10(np.sum(below**2) / np.sum(edge**2)) == pytest.approx(0, abs=1)


def test_weights_mix_voices():
    model, song = load(song_graphs({"soft": -12.0, "loud": 0.0})), take(120)
    power = [np.mean(model.convert(song, 0, 120, np.array(w, np.float32)) ** 2) for w in ([1, 0], [0, 1], [0.5, 0.5])]
    assert 10 * np.log10(power[1] / power[0]) == pytest.approx(12, abs=1)
    assert 10 * np.log10(power[2] / power[0]) == pytest.approx(6, abs=1)


def test_an_equaliser_is_heard_in_its_own_voice_and_in_its_share_of_a_mix():
    graphs, song = song_graphs({"a": 0.0, "b": 0.0}), take(120)
    metadata = song_metadata("condition", ["a", "b"]) | {"equaliser_db": {"b": [-6.0] * EQUALISER_BANDS}}
    helper.set_model_props(graphs["condition"], {"plugin_bridge": json.dumps(metadata)})
    model = load(graphs)
    spectra = [np.abs(np.fft.rfft(model.convert(song, 0, 120, np.array(w, np.float32)))) for w in ([1, 0], [0, 1], [0.5, 0.5])]
    power = [np.mean(spectrum[: 120 * HOP * 7_000 // 40_000] ** 2) for spectrum in spectra]  # above 8 kHz it fades
    assert 10 * np.log10(power[1] / power[0]) == pytest.approx(-6, abs=0.5)
    assert 10 * np.log10(power[2] / power[0]) == pytest.approx(-3, abs=0.5)


def spoilt(part: str, changes: dict[str, object]) -> dict[str, onnx.ModelProto]:
    graphs = song_graphs({"a": 0.0})
    metadata = song_metadata(part, ["a"]) | changes
    helper.set_model_props(graphs[part], {"plugin_bridge": json.dumps(metadata)})
    return graphs


@pytest.mark.parametrize(
    ("part", "changes", "said"),
    [
        ("content", {"kind": "stream"}, "kind"),
        ("content", {"sample_rate": 48_000}, "sample_rate"),
        ("denoiser", {"part": "vocoder"}, "must be the part 'denoiser'"),
        ("vocoder", {"receptive_frames": -1}, "receptive_frames"),
        ("vocoder", {"receptive_frames": 10**9}, "receptive_frames"),
        ("condition", {"voices": []}, "must name its voices"),
        ("condition", {"voices": ["a", "a"]}, "must differ"),
        ("condition", {"voices": ["a", "b"]}, "'voice' must have the shape [1, 2]"),
        ("content", {"mel": "paper"}, "mel"),
        ("condition", {"equaliser_db": {"a": [0.0] * (EQUALISER_BANDS - 1)}}, "equaliser_db.a"),
        ("condition", {"equaliser_db": {"a": [0.0] * (EQUALISER_BANDS - 1) + [99.0]}}, "equaliser_db.a"),
        ("condition", {"equaliser_db": {"b": [0.0] * EQUALISER_BANDS}}, "it has one for 'b'"),
        ("content", {"code": "import os"}, "code"),
    ],
)
def test_metadata_that_is_off_is_refused(part, changes, said):
    with pytest.raises(ModelError) as error:
        load(spoilt(part, changes))
    assert said in str(error.value) and f"{part}.onnx in test.voice" in str(error.value) and "\n" not in str(error.value)


def reshaped(
    dims: list[int | str], dtype: int = TensorProto.FLOAT, name: str = "features", result: str = "content"
) -> onnx.ModelProto:
    node = helper.make_node("Identity", [name], [result])
    return model_proto([node], [value(name, dims, dtype)], [value(result, dims, dtype)], (), song_metadata("content", ["a"]))


@pytest.mark.parametrize(
    ("graph", "said"),
    [
        (reshaped([1, "T", BANDS, 1]), "'content'"),
        (reshaped([1, "T", BANDS - 1]), "'features' must have the shape"),
        (reshaped([1, "T", BANDS], TensorProto.DOUBLE), "float32"),
        (reshaped([1, 64, BANDS]), "must have the shape"),
        (reshaped([1, "T", BANDS], name="mels"), "must have an input 'features'"),
        (reshaped([1, "T", BANDS], result="mels"), "an output 'content'"),
        (model_proto([helper.make_node("Identity", ["features"], ["content"])], [value("features", [1, "T", BANDS])],
                     [value("content", [1, "T", BANDS])]), "no metadata"),
    ],
)  # fmt: skip
def test_a_graph_of_another_shape_is_refused(graph, said):
    with pytest.raises(ModelError) as error:
        load(song_graphs({"a": 0.0}) | {"content": graph})
    assert said in str(error.value) and "content.onnx in test.voice" in str(error.value) and "\n" not in str(error.value)


def test_a_graph_that_gives_no_numbers_is_refused():
    graph = song_graphs({"a": 0.0})["content"]
    graph.graph.node[-1].output[0] = "content_raw"
    graph.graph.node.append(helper.make_node("Log", ["content_raw"], ["content"]))
    with pytest.raises(ModelError, match="finite"):
        load(song_graphs({"a": 0.0}) | {"content": graph})


def test_a_graph_that_fails_on_some_audio_says_so(tmp_path):
    """Silence of some frames passes the trial; of fewer frames there is no 36th."""
    graph = song_graphs({"a": 0.0})["content"]
    graph.graph.node[-1].output[0] = "content_raw"
    graph.graph.initializer.append(helper.make_tensor("far", TensorProto.INT64, [1], [35]))
    graph.graph.node.append(helper.make_node("Gather", ["content_raw", "far"], ["one"], axis=1))
    graph.graph.node.append(helper.make_node("Add", ["content_raw", "one"], ["content"]))
    model = load(song_graphs({"a": 0.0}) | {"content": graph})
    with pytest.raises(ModelError, match=r"fails on 0\.2 s of audio"):
        model.convert(take(20), 0, 20, ONE)


def test_content_comes_from_one_place():
    """A graph of the pack's own, or an encoder that the condition names."""
    graphs = song_graphs({"a": 0.0})
    without = {part: graph for part, graph in graphs.items() if part != "content"}
    with pytest.raises(ModelError, match="must have a content graph, or a condition graph that names the encoder"):
        load(without)
    card = {"name": "vec.onnx", "kind": "onnx", "dimensions": 16, "layer": None, "probe": [0.0] * 32}
    named = spoilt("condition", {"encoder": card})
    with pytest.raises(ModelError, match="and not both"):
        load(named)
    del named["content"]
    assert str(load(named).encoder) == "vec.onnx (16 values a frame)"
    for wrong in ({"dimensions": 2000}, {"probe": [0.0]}, {"name": "\x1b[2J"}, {"kind": "pickle"}):
        graphs = spoilt("condition", {"encoder": card | wrong})
        del graphs["content"]
        with pytest.raises(ModelError, match=rf"encoder\.{next(iter(wrong))}"):
            load(graphs)


def test_a_pack_knows_its_sizes(tmp_path):
    pack = VoicePack.open(write_song_pack(tmp_path / "s.voice", {"a": 0.0, "b": -6.0}))
    assert pack.song_model("lhq").voices == ("a", "b") and pack.song_model("lhq") is pack.song_model("lhq")


def test_a_pack_without_a_song_engine_or_with_other_voices_says_so(tmp_path, voice_folder):
    with pytest.raises(PackError, match="has no song engine 'lhq', it has none"):
        VoicePack.open(voice_folder / "delay512.voice").song_model("lhq")
    with pytest.raises(PackError, match="must have the voices"):
        write_song_pack(tmp_path / "s.voice", {"a": 0.0}, song_graphs({"other": 0.0}))
    graphs = song_graphs({"a": 0.0})
    del graphs["vocoder"]
    with pytest.raises(ValueError, match="none for vocoder"):
        write_song_pack(tmp_path / "s.voice", {"a": 0.0}, graphs)
    assert list(tmp_path.iterdir()) == []
