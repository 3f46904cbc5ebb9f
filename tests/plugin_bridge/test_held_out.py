"""Figures at the end of a training, of voices whose conversions are known by a formula."""

import math

import numpy as np
import pytest
from packs import delay_model, write_test_pack

from dsp.singer import Note, sing
from models.pack import PackError, VoicePack, add_quality

pytest.importorskip("torch")
pytest.importorskip("soxr")

from models.source_filter.data import Packer, Recordings
from models.source_filter.features import CHUNK, HOP
from plugin_bridge.held_out import judge_held_out, spectral_distances_db

RATE = 48_000


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Two takes that are held out, and one that is not and would spoil every figure: it is said to be an octave higher."""
    folder = tmp_path_factory.mktemp("packed")
    with Packer(folder) as packer:
        for number in range(3):
            song = sing([Note(50 + number, 1.5, "a", "s"), Note(57, 1.5, "i", "m")], RATE, seed=number)
            audio = song.audio[: len(song.audio) // CHUNK * CHUNK]
            hz, voiced = song.f0_hz[: len(audio) : HOP], song.voiced[: len(audio) : HOP]
            track = np.stack([np.where(voiced, hz, 150.0) * (1 if number else 2), voiced], 1).astype(np.float32)
            packer.add(audio, track, f"{number}.wav", "me", True, 24_000.0, held_out=number > 0)
    return Recordings(folder)


def test_what_comes_back_as_it_was_has_no_errors(recordings, tmp_path):
    figures = judge_held_out(write_test_pack(tmp_path / "me.voice", delay_model({"me": 1.0})), recordings)
    assert figures.seconds == pytest.approx(6, abs=0.6)
    assert figures.pitch_error_cents < 10 and figures.octave_errors < 0.01 and figures.voicing_agreement > 0.9
    assert figures.spectral_distance_db < 1e-3
    assert math.isnan(figures.speaker_cosine) or figures.speaker_cosine == pytest.approx(1, abs=1e-3)
    assert "octave errors, voicing 9" in str(figures) and "spectra 0.0 dB apart" in str(figures) and "nan" not in str(figures)


def test_spectral_distance_is_that_of_levels_below_the_bandwidth_alone():
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(RATE).astype(np.float32)
    assert spectral_distances_db(noise, 2 * noise, 24_000.0).mean() == pytest.approx(6.02, abs=0.1)
    hum = (0.1 * np.sin(2 * np.pi * 12_000 * np.arange(RATE) / RATE)).astype(np.float32)
    low = (0.1 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)).astype(np.float32)
    assert spectral_distances_db(low, low + hum, 8_000.0).mean() < 0.1 < spectral_distances_db(low, low + hum, 24_000.0).mean()


def test_figures_come_into_the_card_beside_those_that_are_there(tmp_path):
    pack = VoicePack.open(write_test_pack(tmp_path / "me.voice", delay_model({"me": 1.0})))
    add_quality(pack, {"held_out_loss": 1.5})
    add_quality(VoicePack.open(pack.path), {"held_out_octave_errors": 0.25})
    after = VoicePack.open(pack.path)
    figures = {"held_out_loss": 1.5, "held_out_octave_errors": 0.25}
    assert after.manifest.voices[0].quality == pack.manifest.voices[0].quality | figures
    assert after.read("stream.onnx") == pack.read("stream.onnx")
    with pytest.raises(PackError):
        add_quality(after, {"held_out_loss": math.nan})
    assert VoicePack.open(pack.path).manifest.voices[0].quality["held_out_loss"] == 1.5
