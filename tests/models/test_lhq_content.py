"""Content encoder, condition network and their training: invariances, receptive fields, packing, and a kill in the middle."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("swift_f0")

from pathlib import Path  # noqa: E402

from lhq_training import DRAWN  # noqa: E402
from pedalboard.io import AudioFile  # noqa: E402

from dsp.pitch import track_pitch  # noqa: E402
from dsp.singer import Note, sing  # noqa: E402
from models.lhq.content import BANDS, Conditioner, ContentConfig, load_content, pitch_features, running_sum  # noqa: E402
from models.lhq.data import Takes, pack_features  # noqa: E402
from models.lhq.features import loudness  # noqa: E402
from models.lhq.mel import log_mel, normalise  # noqa: E402
from models.lhq.others import OtherVoices, key_shifted  # noqa: E402
from models.lhq.train_content import ContentTraining, Progress, fit, mel_loss  # noqa: E402
from models.source_filter.data import Corpus, Recordings, pack  # noqa: E402
from models.source_filter.weights import load_trained  # noqa: E402
from models.source_filter.whitening import Whiten  # noqa: E402

torch.set_num_threads(1)
SMALL = ContentConfig(
    voices=3, content=8, encoder_width=16, encoder_hidden=24, condition_width=16, condition_hidden=24, embedding=4
)
TRAINING = ContentTraining(
    **DRAWN,
    frames=24,
    paired=2,
    learning_rate=3e-3,
    average=0.9,
    consistency=0.3,
    gain=(-1.0, 0.5),
)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recordings, Takes]:
    folder = tmp_path_factory.mktemp("lhq")
    for seed in range(4):
        song = sing([Note(50 + seed, 1.0, "a", "s"), Note(57, 1.0, "i", "m")], 48_000, seed=seed)
        (folder / "low").mkdir(exist_ok=True)
        (folder / "many").mkdir(exist_ok=True)
        for name in ("low", "many"):
            with AudioFile(str(folder / name / f"take {seed}.wav"), "w", 48_000, 1) as file:
                file.write(song.audio)
    corpora = [Corpus("low", "low", hold_out=4), Corpus("many", "", hold_out=4, bandwidth_hz=7600.0)]
    pack(folder, corpora, folder / "audio")
    recordings = Recordings(folder / "audio")
    pack_features(recordings, OtherVoices(load_trained(), 1), folder / "packed", 1)
    return recordings, Takes(folder / "packed")


def awake(config: ContentConfig = SMALL) -> Conditioner:
    """With every block at work, which at the start of a training is the identity."""
    torch.manual_seed(0)
    model = Conditioner(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize(("frames", "reach"), [(1, 1), (5, 2), (300, 128), (700, 128)])
def test_a_running_sum_is_the_sum_of_each_window(frames: int, reach: int) -> None:
    x = torch.rand(2, frames, 3, generator=torch.Generator().manual_seed(0))
    wanted = [x[:, max(0, k - reach) : k + reach + 1].sum(1) for k in range(frames)]
    torch.testing.assert_close(running_sum(x, reach), torch.stack(wanted, 1))


def test_content_does_not_depend_on_level() -> None:
    model = awake()
    features = torch.randn(2, 60, BANDS) - 4
    with torch.no_grad():
        content, louder = model.encoder(features), model.encoder(features + 1.5)
    # All but the prior of the mean, which is an absolute level.
    assert (content - louder).abs().max() < 0.05 * content.std()


def test_whitened_channels_are_uncorrelated_and_of_unit_variance() -> None:
    whiten = Whiten(5)
    # Channels that repeat each other, loud ones and faint ones, all with an offset.
    x = torch.randn(3, 4000, 5) @ torch.tensor(np.random.default_rng(1).standard_normal((5, 5)), dtype=torch.float32) * 3 + 2
    for _ in range(400):  # until the remembered statistics are those of the batch
        fitted = whiten.fit(x)
    for made in (fitted, whiten(x)):
        np.testing.assert_allclose(np.cov(made.flatten(0, 1).numpy().T), np.eye(5), atol=0.03)
        np.testing.assert_allclose(made.mean((0, 1)), 0, atol=0.03)


def test_a_microphones_steady_colour_is_taken_out() -> None:
    model = awake()
    features = 0.3 * torch.randn(1, 300, BANDS)
    colour = torch.linspace(-1, 1, BANDS)
    with torch.no_grad():
        plain, coloured = (model.encoder.normalise(x)[..., :BANDS] for x in (features, features + colour))
    # Not exactly: colour moves the weights of the frames a little.
    assert (plain - coloured).abs().mean() < 0.1 * colour.abs().mean()


def test_long_term_mean_is_the_formula() -> None:
    model = awake()
    rng = np.random.default_rng(0)
    features = rng.standard_normal((400, BANDS)) - 2
    prior = rng.standard_normal(BANDS + 1)
    model.encoder.normalise.prior.copy_(torch.from_numpy(prior))
    ours = model.encoder.normalise(torch.tensor(features[None], dtype=torch.float32))[0, 250].numpy()
    energy = np.exp(2 * features).mean(1)
    values = np.concatenate([features - 0.5 * np.log(energy)[:, None], 0.5 * np.log(energy)[:, None]], 1)
    near = slice(250 - 128, 250 + 129)
    mean = (energy[near] @ values[near] + 1e-6 * prior) / (energy[near].sum() + 1e-6)
    wanted = values[250] - mean
    wanted[-1] *= 0.5
    np.testing.assert_allclose(ours, wanted, atol=1e-4)


@pytest.mark.parametrize("part", ["encoder", "condition"])
def test_receptive_field_is_what_is_reported(part: str) -> None:
    """Frames beyond it change nothing, its last frame does."""
    model = awake()
    frames, middle = 601, 300
    inputs = [torch.randn(1, frames, BANDS) - 3]
    network = model.encoder
    if part == "condition":
        network = model.condition
        content, track = torch.randn(1, frames, 8), torch.rand(1, frames)
        inputs = [content, 200 + 50 * track, track, -track, torch.ones(1), torch.ones(1, 4)]
    reach = network.receptive_frames
    for side in (-1, 1):
        for distance, changes in ((reach, True), (reach + 1, False)):
            moved = [x.clone() for x in inputs]
            moved[0][:, middle + side * distance] += 3.0
            with torch.no_grad():
                difference = (network(*inputs) - network(*moved))[0, middle].abs().max()
            assert (difference > 1e-7) == changes, (side, distance, difference)


def test_pitch_features() -> None:
    octaves = pitch_features(torch.tensor([[110.0, 220.0, 330.0]]), torch.tensor([[1.0, 0.0, 1.0]]))[0]
    np.testing.assert_allclose(octaves[0, 1:3], octaves[1, 1:3], atol=1e-4)  # an octave apart: the same pitch class
    fifth = 2 * np.pi * np.log2(330 / 440)
    np.testing.assert_allclose(octaves[2], [4 * np.log(1 + 330 / 700) - 1.5, np.sin(fifth), np.cos(fifth), 1], atol=1e-4)


def test_loss_ignores_what_the_recording_cannot_tell() -> None:
    wanted = torch.zeros(1, 5, 100)
    made = torch.zeros(1, 5, 100)
    made[..., 80:] = 1.0  # from 8.9 kHz on
    loudness = torch.zeros(1, 5)
    assert mel_loss(made, wanted, loudness, torch.tensor([7600.0])) == 0
    assert mel_loss(made, wanted, loudness, torch.tensor([20_000.0])) == pytest.approx(0.2 * np.log(1e5) / 2, rel=1e-4)


def test_packed_arrays_are_the_recordings(packed: tuple[Recordings, Takes]) -> None:
    """Undisturbed takes hold the mel of the audio at 40 kHz; f0 lies where the singer sang it, an independent tracker says."""
    import soxr

    recordings, takes = packed
    clip = recordings.clips[0]
    take = takes.takes[0]
    at40 = soxr.resample(recordings.read(clip)[0], 48_000, 40_000)
    assert take.frames == len(at40) // 400 + 1 and take.shift == 0
    inside = slice(take.start, take.start + take.frames)
    np.testing.assert_allclose(takes.mel[inside], normalise(log_mel(at40)), atol=1e-3)
    _, f0, voiced = takes.scalars[inside].T
    track = track_pitch(at40, 40_000)
    wanted = np.interp(np.arange(take.frames) / 100, track.times_s, track.hz)
    steady = slice(30, 90)
    assert voiced[steady].all()
    assert np.median(np.abs(1200 * np.log2(f0[steady] / wanted[steady]))) < 15


def test_the_other_voice_is_the_same_sentence(packed: tuple[Recordings, Takes]) -> None:
    """As long, as loud, at the same time, but not the same sound."""
    _, takes = packed
    likeness = []
    for take in takes.takes:
        inside = slice(take.start, take.start + take.frames)
        features, other = takes.features[inside].astype(np.float32), takes.other[inside].astype(np.float32)
        assert np.abs(features - other)[30:90].mean() > 0.2
        envelopes = [np.exp(x).sum(1) for x in (features, other)]
        likeness.append(np.corrcoef(*envelopes)[0, 1])
    assert np.median(likeness) > 0.9 and min(likeness) > 0.6


def test_target_voices_come_in_another_key_too(packed: tuple[Recordings, Takes]) -> None:
    _, takes = packed
    plain, moved = takes.takes[0], takes.takes[1]
    assert plain.speaker == moved.speaker == "low" and 0 < abs(moved.shift) <= 5
    assert moved.frames == pytest.approx(plain.frames / 2 ** (moved.shift / 12), abs=3)
    middles = []
    for take in (plain, moved):
        _, f0, voiced = takes.scalars[take.start : take.start + take.frames].T
        middles.append(np.median(f0[voiced > 0]))
    assert 12 * np.log2(middles[1] / middles[0]) == pytest.approx(moved.shift, abs=0.2)
    assert moved.bandwidth_hz == pytest.approx(min(20_000, 24_000 * 2 ** (moved.shift / 12)))
    assert all(take.shift == 0 for take in takes.takes if take.held_out or not take.target)
    assert takes.speakers[0] == "low" and len(takes.speakers) == 5


def test_key_shift_moves_formants_and_pitch_alike() -> None:
    tone = np.sin(2 * np.pi * 500 * np.arange(48_000) / 48_000).astype(np.float32)
    track = np.tile(np.array([[500.0, 1.0]], np.float32), (187, 1))
    faster, moved = key_shifted(tone, track, 12.0)
    assert len(faster) == 24_000 // 512 * 512 and moved[:90, 0] == pytest.approx(1000)
    spectrum = np.abs(np.fft.rfft(faster[:20_480]))
    assert np.argmax(spectrum) * 48_000 / 20_480 == pytest.approx(1000, abs=3)


def test_batches_line_up_and_are_reproducible(packed: tuple[Recordings, Takes]) -> None:
    _, takes = packed
    one, same = (takes.batch(np.random.default_rng(4), 6, 50, 20, helpers=0.5, shifted=0.5) for _ in range(2))
    np.testing.assert_array_equal(one.mel, same.mel)
    assert one.features.shape == (6, 90, BANDS) and one.mel.shape == (6, 50, 100)
    assert (one.speaker[:3] > 0).all() and (one.speaker[3:] == 0).all()
    assert (one.bandwidth_hz[:3] == 7600).all() and (one.shift[:3] == 0).all()
    # The features' inner frames are those of the mel.
    np.testing.assert_allclose(loudness(one.features[:, 20:-20]), one.loudness, atol=0.01)
    all_loudness = np.lib.stride_tricks.sliding_window_view(takes.scalars[:, 0], 50)
    for loud, mel in zip(one.loudness, one.mel, strict=True):
        first = np.flatnonzero((all_loudness == loud).all(1))[0]
        np.testing.assert_array_equal(mel, takes.mel[first : first + 50])
    # A stretch longer than any take is followed by silence.
    long = takes.batch(np.random.default_rng(4), 1, 1000, 0, helpers=0.0, shifted=0.0)
    assert (long.mel[0, -1] == -1).all() and long.voiced[0, -1] == 0 and long.f0.min() > 50


def run(takes: Takes, work: Path, steps: int, config: ContentTraining = TRAINING) -> tuple[Conditioner, list[Progress]]:
    work.mkdir(exist_ok=True)
    seen: list[Progress] = []
    sizes = replace(SMALL, voices=len(takes.speakers))
    model = fit(takes, sizes, config, work, steps, seen.append, report_every=5)
    return model, seen


def test_a_resumed_training_is_the_unbroken_one(packed: tuple[Recordings, Takes], tmp_path: Path) -> None:
    """Stopped by the clock's stand-in, a report that raises, and called again."""
    _, takes = packed
    whole, _ = run(takes, tmp_path / "whole", 8)

    class Stop(Exception):
        pass

    ticks = itertools.count()

    def stop(_: Progress) -> None:
        if next(ticks) == 1:
            raise Stop

    broken = tmp_path / "broken"
    broken.mkdir()
    sizes = replace(SMALL, voices=len(takes.speakers))
    with pytest.raises(Stop):
        # Saved after every step; the report after the sixth ends it.
        fit(takes, sizes, TRAINING, broken, 8, stop, report_every=3, save_seconds=0.0)
    resumed, _ = run(takes, broken, 8)
    for name, value in whole.state_dict().items():
        np.testing.assert_array_equal(resumed.state_dict()[name], value, err_msg=name)


def test_training_learns_and_its_checkpoint_loads(packed: tuple[Recordings, Takes], tmp_path: Path) -> None:
    _, takes = packed
    trained, seen = run(takes, tmp_path, 30)
    assert seen[-1].held_out_loss < 0.9 * seen[0].held_out_loss
    loaded, voices = load_content(tmp_path / "content.pt")
    assert voices == ["low"]
    torch.testing.assert_close(loaded.state_dict(), trained.state_dict())


def test_a_checkpoint_that_is_none_is_refused(tmp_path: Path) -> None:
    wrong = tmp_path / "content.pt"
    for data in (b"", b"PK nothing"):
        wrong.write_bytes(data)
        with pytest.raises(ValueError, match=r"expected a stage-1 checkpoint in .*content\.pt"):
            load_content(wrong)
    torch.save({"config": {"voices": 1, "what": 2}}, wrong)
    with pytest.raises(ValueError, match="expected a stage-1 checkpoint"):
        load_content(wrong)
