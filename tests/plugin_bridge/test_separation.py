"""Mixes: parted by a model whose stem is known by a formula, and put together again."""

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from packs import constant, value
from pedalboard.io import AudioFile

from dsp.resampling import resample
from models.graph import ModelError
from plugin_bridge.files import FileError
from plugin_bridge.mdx_models import REGISTRY, MdxModel, registered
from plugin_bridge.recording import open_recording
from plugin_bridge.remix import remix
from plugin_bridge.separation import Separator, separate
from plugin_bridge.stages import Stages

BINS, FRAMES, N_FFT = 2049, 33, 4096  # all of the spectrum, a chunk of 0.74 s


def share_model(path, share, shape=(1, 4, BINS, FRAMES), nodes=None, dtype=TensorProto.FLOAT):
    """An MDX-Net whose stem is `share` of the mix."""
    nodes = nodes or [helper.make_node("Mul", ["input", "share"], ["output"])]
    graph = helper.make_graph(
        nodes,
        "mdx",
        [value("input", shape, dtype)],
        [value("output", shape, dtype)],
        [constant("share", share, np.float32 if dtype == TensorProto.FLOAT else np.float64)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def write_audio(path, audio, rate):
    with AudioFile(str(path), "w", rate, audio.shape[0], bit_depth=32) as file:
        file.write(audio)
    return path


def read_audio(path):
    with AudioFile(str(path)) as file:
        return file.read(file.frames)


def tones(rate, seconds=2.3, channels=2):
    """Sounds between 300 Hz and 3 kHz, apart in the channels."""
    t = np.arange(int(rate * seconds)) / rate
    rows = [sum(np.sin(2 * np.pi * hz * (1 + 0.1 * c) * t + hz) for hz in (310, 900, 2900)) * 0.1 for c in range(channels)]
    return np.array(rows, np.float32)


def parted(tmp_path, audio, rate, separator, threads=2):
    source = write_audio(tmp_path / "mix.wav", audio, rate)
    told = []
    parts = separate(source, separator, tmp_path, threads, Stages(), told.append)
    assert told == sorted(told) and told[-1] == 1
    return read_audio(parts.vocals), read_audio(parts.accompaniment)


@pytest.mark.parametrize(("rate", "channels"), [(44_100, 2), (44_100, 1), (48_000, 2)])
def test_the_stem_is_what_the_model_makes_of_the_mix_and_the_rest_is_the_rest(tmp_path, rate, channels):
    audio = tones(rate, channels=channels)
    separator = Separator(share_model(tmp_path / "voc.onnx", 0.25), N_FFT)
    vocals, rest = parted(tmp_path, audio, rate, separator)
    assert vocals.shape == rest.shape == audio.shape
    inside = slice(200, -200)  # at a jump into silence the resampler rings
    assert np.max(np.abs(vocals - 0.25 * audio)[:, inside]) < 2e-3
    assert np.max(np.abs(vocals + rest - audio)) < 1e-6


def test_any_number_of_threads_gives_the_same(tmp_path):
    separator = Separator(share_model(tmp_path / "voc.onnx", 0.5), N_FFT)
    first, second = (parted(tmp_path, tones(44_100), 44_100, separator, threads) for threads in (1, 3))
    assert np.array_equal(first, second)


def test_a_model_of_the_accompaniment_gives_that(tmp_path):
    audio = tones(44_100)
    vocals, rest = parted(tmp_path, audio, 44_100, Separator(share_model(tmp_path / "Inst_1.onnx", 0.25), N_FFT))
    assert np.max(np.abs(rest - 0.25 * audio)[:, 200:-200]) < 1e-3 and np.std(vocals) > 2 * np.std(rest)
    assert Separator(tmp_path / "Inst_1.onnx", N_FFT, "vocals").stem == "vocals"


@pytest.mark.parametrize(
    ("name", "bins", "n_fft", "compensate", "stem"),
    [
        ("UVR-MDX-NET-Voc_FT", 3072, 7680, 1.021, "vocals"),
        ("Kim_Vocal_2", 3072, 7680, 1.009, "vocals"),
        ("UVR_MDXNET_KARA_2", 2048, 5120, 1.065, "accompaniment"),
        ("UVR-MDX-NET-Inst_Main", 2048, 5120, 1.025, "accompaniment"),
        ("uvr-mdx-net-inst_hq_3", 3072, 6144, 1.022, "accompaniment"),
        ("Some_Inst_of_mine", 2560, 5120, 1.0, "accompaniment"),
    ],
)
def test_a_published_model_is_known_by_its_name(tmp_path, name, bins, n_fft, compensate, stem):
    path = share_model(tmp_path / f"{name}.onnx", 0.5, shape=(1, 4, bins, 9))
    separator = Separator(path)
    assert (separator.n_fft, separator.stem) == (n_fft, stem)
    audio = tones(44_100, 1.0)[:, : separator.chunk]
    inside = slice(n_fft // 2, -n_fft // 2)
    assert np.max(np.abs(separator.run(audio) - 0.5 * compensate * audio)[:, inside]) < 2e-3
    assert Separator(path, 6200).n_fft == 6200


def test_or_by_the_end_of_its_file(monkeypatch):
    data = bytes(1000) + np.random.default_rng(0).bytes(10_240_000)
    model = MdxModel(2048, 5120, 1.1, "Vocals")
    monkeypatch.setitem(REGISTRY, hashlib.md5(data[1000:]).hexdigest(), model)
    assert registered(Path("model.onnx"), data, 2048) is model
    assert registered(Path("model.onnx"), data[:-1], 2048) is None
    assert registered(Path("model.onnx"), data, 3072) is None


@pytest.mark.parametrize(
    ("name", "bins", "frames", "n_fft", "said"),
    [
        ("my_vocals", 3072, 9, None, "has 3072 bins, for which no length of its transform is known: give --separate-fft"),
        ("mine", 2560, 9, None, "vocals or the accompaniment is not known: give --separate-stem"),
        ("mine_inst_voc", 2560, 9, None, "give --separate-stem"),
        ("Reverb_HQ_By_FoxJoy", 3072, 9, None, "parts reverb from the rest, where one of vocals is needed"),
        ("Kim_Vocal_2", 3072, 2, None, "hears 2 frames at once, but it needs at least 5 for a transform of 7680 samples"),
        ("Kim_Vocal_2", 3072, 9, 100_000, "must have an even length of 6142 to 65536 samples, got 100000"),
        ("Kim_Vocal_2", 3072, 9, 0, "must have an even length of 6142 to 65536 samples, got 0"),
    ],
)
def test_what_is_not_known_of_a_model_is_asked_for(tmp_path, name, bins, frames, n_fft, said):
    path = share_model(tmp_path / f"{name}.onnx", 0.5, shape=(1, 4, bins, frames))
    with pytest.raises(ModelError) as error:
        Separator(path, n_fft)
    assert said in str(error.value)


def test_the_lowest_bins_are_left_to_the_rest(tmp_path):
    rate = 44_100
    hum = 0.3 * np.sin(2 * np.pi * 5.0 * np.arange(2 * rate) / rate).astype(np.float32)
    vocals, _ = parted(tmp_path, np.stack([hum, hum]), rate, Separator(share_model(tmp_path / "voc.onnx", 1.0), N_FFT))
    assert np.std(vocals[:, 5000:-5000]) < 0.01 * np.std(hum)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.write_bytes(b"not a model"), "is not an ONNX model"),
        (lambda path: share_model(path, 1.0, shape=(1, 2, BINS, FRAMES)), "must take float32"),
        (lambda path: share_model(path, 1.0, shape=(1, 4, "bins", FRAMES)), "must take float32"),
        (lambda path: share_model(path, 1.0, dtype=TensorProto.DOUBLE), "must take float32"),
        (lambda path: share_model(path, 1.0, shape=(1, 4, 777, FRAMES)), "give --separate-fft"),
        (lambda path: share_model(path, np.nan), "finite numbers"),
    ],
)
def test_what_is_no_separation_model_is_refused(tmp_path, make, said):
    make(tmp_path / "voc.onnx")
    n_fft = None if "separate-fft" in said else N_FFT
    with pytest.raises(ModelError) as error:
        separator = Separator(tmp_path / "voc.onnx", n_fft)
        separator.run(np.zeros((2, separator.chunk), np.float32))
    assert said in str(error.value) and "voc.onnx" in str(error.value) and "\n" not in str(error.value)


def test_without_a_model_it_says_how_to_get_a_stem(tmp_path):
    with pytest.raises(FileError, match=r"missing\.onnx cannot be read.*a vocal stem comes out of any mixing program"):
        Separator(tmp_path / "missing.onnx")
    with pytest.raises(ModelError, match="even length of 4096 to 65536 samples, got 1000"):
        Separator(share_model(tmp_path / "voc.onnx", 1.0), 1000)


def test_a_remix_is_the_sum_as_long_as_the_longer_one(tmp_path):
    vocal = write_audio(tmp_path / "v.wav", tones(44_100, 1.0, 1), 44_100)
    played = write_audio(tmp_path / "a.wav", tones(44_100, 1.5), 44_100)
    mix = remix(vocal, 0.5, played, tmp_path / "out.flac", Stages())
    expected = tones(44_100, 1.5)
    expected[:, :44_100] += 0.5 * tones(44_100, 1.0, 1)
    assert np.max(np.abs(read_audio(tmp_path / "out.flac") - expected)) < 1e-6
    assert (mix.samples, mix.channels, mix.lowered_db) == (66_150, 2, 0) and mix.peak == pytest.approx(np.abs(expected).max())


def test_an_accompaniment_at_another_rate_stays_in_time(tmp_path):
    vocal = write_audio(tmp_path / "v.wav", 0 * tones(44_100, 1.0), 44_100)
    audio = resample(tones(44_100, 1.0)[0], 44_100, 48_000)
    remix(vocal, 1.0, write_audio(tmp_path / "a.wav", audio[None], 48_000), tmp_path / "out.wav", Stages())
    got = read_audio(tmp_path / "out.wav")
    assert np.max(np.abs(got[0] - tones(44_100, 1.0)[0])[300:-300]) < 1e-3 and np.array_equal(got[0], got[1])


def test_a_mix_that_would_be_clipped_is_lowered_as_a_whole(tmp_path):
    loud = 8 * tones(44_100, 1.0)
    vocal, played = (write_audio(tmp_path / name, loud, 44_100) for name in ("v.wav", "a.wav"))
    mix = remix(vocal, 1.0, played, tmp_path / "out.wav", Stages())
    got = read_audio(tmp_path / "out.wav")
    assert np.abs(got).max() == pytest.approx(10 ** (-0.1 / 20), abs=1e-4) and mix.lowered_db > 0
    assert np.max(np.abs(got * 10 ** (mix.lowered_db / 20) - 2 * loud)) < 1e-5


@pytest.mark.parametrize("fault", [np.inf, -np.inf, np.nan, 1e30])
def test_a_sample_that_is_no_audio_leaves_the_level_of_the_rest(tmp_path, fault):
    audio = tones(44_100, 1.0)
    faulty = audio.copy()
    faulty[1, 20_000] = fault
    vocal, played = (write_audio(tmp_path / name, x, 44_100) for name, x in (("v.wav", audio), ("a.wav", faulty)))
    mix = remix(vocal, 1.0, played, tmp_path / "out.wav", Stages())
    expected = 2 * audio
    expected[1, 20_000] = audio[1, 20_000]
    assert mix.lowered_db == 0 and np.max(np.abs(read_audio(tmp_path / "out.wav") - expected)) < 1e-5
    vocals, rest = parted(tmp_path, faulty, 44_100, Separator(share_model(tmp_path / "voc.onnx", 0.5), N_FFT))
    assert np.abs(vocals).max() < 0.3 and np.abs(rest).max() < 0.3


def test_channels_that_do_not_go_together_are_told(tmp_path):
    vocal = write_audio(tmp_path / "v.wav", tones(44_100, 0.5, 2), 44_100)
    played = write_audio(tmp_path / "a.wav", tones(44_100, 0.5, 4), 44_100)
    with pytest.raises(FileError, match="4 channels, which do not go with the vocal's 2"):
        remix(vocal, 1.0, played, tmp_path / "out.wav", Stages())
    with pytest.raises(FileError, match="must be mono or stereo"):
        separate(played, Separator(share_model(tmp_path / "voc.onnx", 1.0), N_FFT), tmp_path, 1, Stages(), lambda done: None)
    with open_recording(vocal) as recording:
        assert recording.channels == 2
