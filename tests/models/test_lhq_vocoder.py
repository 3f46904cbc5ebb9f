"""The vocoder's network: what it reads off a spectrogram, copies of a synthetic singer, its graph, its training against a kill."""

from __future__ import annotations

import dataclasses
import signal

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("swift_f0")

from pathlib import Path  # noqa: E402

from pedalboard.io import AudioFile  # noqa: E402

from dsp.filters import gain_centres_hz  # noqa: E402
from dsp.mel import hz_to_mel, mel_centres  # noqa: E402
from dsp.pitch import track_pitch  # noqa: E402
from dsp.singer import Note, sing  # noqa: E402
from models.lhq.export import export_vocoder, half_weights  # noqa: E402
from models.lhq.mel import DEFAULT, log_mel, normalise  # noqa: E402
from models.lhq.synthesis import GAINS, HOP, NOISE_STEPS, SAMPLE_RATE, noise_frames, phase_of, pulse_frames, synthesise  # noqa: E402
from models.lhq.train_vocoder import Progress, TrainingConfig, draw, fit  # noqa: E402
from models.lhq.vocoder import Synthesis, Vocoder, VocoderConfig  # noqa: E402
from models.source_filter.data import Corpus, Recordings, pack  # noqa: E402

torch.set_num_threads(1)
SMALL = VocoderConfig(width=32, hidden=48, kernel=3, dilations=(1, 2))
BRIEF = TrainingConfig(batch=2, frames=44, edge=8)


def disturbed(sizes: VocoderConfig, seed: int = 0) -> Vocoder:
    """A network whose weights are all in use."""
    torch.manual_seed(seed)
    network = Vocoder(sizes).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    # Wide blocks: what comes from far away must be seen in the end.
    for block in network.blocks:
        torch.nn.init.normal_(block.depthwise.weight, std=1.0)
        torch.nn.init.normal_(block.project.weight, std=0.3)
    return network


def inputs(frames: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    rng = np.random.default_rng(seed)
    mel = np.clip(rng.normal(-0.2, 0.3, (frames, DEFAULT.bins)), -1, 1).astype(np.float32)
    f0 = (200 * 2 ** rng.normal(0, 0.5, frames)).astype(np.float32)
    return mel, f0, (rng.random(frames) > 0.4).astype(np.float32)


def gains_of(network: Vocoder, *arrays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    with torch.no_grad():
        harmonic, noise = network(*(torch.from_numpy(x)[None] for x in arrays))
    return harmonic[0].numpy(), noise[0].numpy()


@pytest.fixture(scope="module")
def song() -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    """(audio at 40 kHz, f0 and voicing of each frame) of a synthetic singer."""
    made = sing([Note(52, 0.8, "a", "s"), Note(59, 0.8, "i", "m"), Note(64, 0.8, "o")], SAMPLE_RATE, seed=4)
    frames = len(made.audio) // HOP + 1
    centres = np.minimum(np.arange(frames) * HOP, len(made.audio) - 1)
    voiced = made.voiced[centres]
    f0 = np.interp(np.arange(frames), np.flatnonzero(voiced), made.f0_hz[centres][voiced])
    return made.audio, f0.astype(np.float32), voiced.astype(np.float32)


def test_lines_run_through_harmonics_and_valleys() -> None:
    rng = np.random.default_rng(1)
    spectrum, f0 = rng.normal(size=(1, 3, DEFAULT.bins)), np.array([93.0, 247.0, 905.0])
    network = Vocoder(SMALL)
    found = network.lines(torch.tensor(spectrum, dtype=torch.float32), torch.tensor(f0[None], dtype=torch.float32))
    bands = hz_to_mel(mel_centres(DEFAULT.bins, DEFAULT.low_hz, DEFAULT.high_hz))
    centres = gain_centres_hz(SAMPLE_RATE, GAINS)
    for frame in range(3):
        for line, first in zip(found[:2], (1.0, 0.5), strict=True):
            at = np.arange(first, 45_000 / f0[frame]) * f0[frame]
            wanted = np.interp(centres, at, np.interp(hz_to_mel(at), bands, spectrum[0, frame]))
            np.testing.assert_allclose(line[0, frame].numpy(), wanted, atol=5e-3)
        plain = np.interp(hz_to_mel(centres), bands, spectrum[0, frame])
        np.testing.assert_allclose(found[2][0, frame].numpy(), plain, atol=5e-3)


def test_untrained_it_copies_a_singer(song: tuple[np.ndarray, ...]) -> None:  # type: ignore[type-arg]
    audio, f0, voiced = song
    mel = normalise(log_mel(audio))
    made = synthesise(*gains_of(Vocoder(SMALL).eval(), mel, f0, voiced), f0, voiced, 0, 0.0)
    made = made[: len(audio)]
    # Level: within 2 dB where it is sung.
    frames = np.flatnonzero(voiced[:-1] > 0)
    power = [np.square(x[: len(x) // HOP * HOP].reshape(-1, HOP)).mean(1)[frames[frames < len(x) // HOP]] for x in (audio, made)]
    loud = power[0] > 0.01 * power[0].max()
    assert np.median(np.abs(10 * np.log10(power[1][loud] / power[0][loud]))) < 2
    # Its own spectrogram again, within 3 dB up to 4 kHz.
    again = log_mel(made)
    low = slice(0, int(np.searchsorted(mel_centres(DEFAULT.bins, DEFAULT.low_hz, DEFAULT.high_hz), 4_000)))
    heard = log_mel(audio)[:, low] > np.log(1e-3)
    assert np.median(np.abs(again - log_mel(audio))[:, low][heard]) < 3 / 8.686
    # Its pitch.
    found = track_pitch(made, SAMPLE_RATE)
    wanted = np.interp(found.times_s * SAMPLE_RATE / HOP, np.arange(len(f0)), f0)
    sure = found.voiced & (np.interp(found.times_s * SAMPLE_RATE / HOP, np.arange(len(f0)), voiced) == 1)
    assert np.median(np.abs(1200 * np.log2(found.hz[sure] / wanted[sure]))) < 8


def test_silence_stays_silence() -> None:
    frames = 50
    mel = normalise(log_mel(np.zeros((frames - 1) * HOP, np.float32)))
    for voiced in (np.zeros(frames, np.float32), np.ones(frames, np.float32)):
        f0 = np.full(frames, 200, np.float32)
        # Whatever the network has learned: its correction is bounded.
        network = disturbed(SMALL)
        torch.nn.init.constant_(network.leave.bias, 100.0)
        audio = synthesise(*gains_of(network, mel, f0, voiced), f0, voiced, 0, 0.0)
        assert np.abs(audio).max() < 1e-4  # 80 dB below full scale
        audio = synthesise(*gains_of(Vocoder(SMALL).eval(), mel, f0, voiced), f0, voiced, 0, 0.0)
        assert np.abs(audio).max() < 1e-6


def test_network_needs_no_more_context_than_it_says() -> None:
    network = disturbed(VocoderConfig())
    assert sum(p.numel() for p in network.parameters()) <= 1_000_000
    arrays = inputs(90)
    whole = gains_of(network, *arrays)
    reach = network.receptive_frames
    part = gains_of(network, *(x[40 - reach : 45 + reach] for x in arrays))
    for one, other in zip(whole, part, strict=True):
        np.testing.assert_allclose(other[reach:-reach], one[40:45], atol=2e-5)
    less = gains_of(network, *(x[40 - reach + 1 : 45 + reach - 1] for x in arrays))
    assert np.abs(less[0][reach - 1 : -reach + 1] - whole[0][40:45]).max() > 1e-4


def test_synthesis_with_gradients_is_the_one_without() -> None:
    frames = 80
    rng = np.random.default_rng(3)
    harmonic = rng.normal(-2, 1, (frames, GAINS)).astype(np.float32)
    noise = rng.normal(-2, 1, (frames, NOISE_STEPS * GAINS)).astype(np.float32)
    _, f0, voiced = inputs(frames)
    f0 = np.asarray(np.exp(np.convolve(np.log(f0), np.ones(9) / 9, "same")) + 60, np.float32)
    wanted = synthesise(harmonic, noise, f0, voiced, 12, 0.25, seed=9)
    excitation = pulse_frames(f0, phase_of(f0, 0.25)) * voiced[:, None]
    batch = (harmonic, noise, excitation, noise_frames(12, frames, 9))
    made = Synthesis()(*(torch.tensor(np.asarray(x, np.float32))[None] for x in batch))[0].numpy()
    np.testing.assert_allclose(made, wanted, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("frames", [1, 37, 150])
def test_graph_is_the_network(frames: int) -> None:
    network = disturbed(SMALL)
    whole = export_vocoder(network)
    arrays = inputs(frames, seed=2)
    # Next to the spectrogram's floor, which is subtracted, the logarithm makes much of the last digits.
    for model, tolerance in ((whole, 2e-3), (half_weights(whole), 5e-2)):
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        made = session.run(["harmonic", "noise"], {n: x[None] for n, x in zip(("mel", "f0", "voiced"), arrays, strict=True)})
        for one, other in zip(made, gains_of(network, *arrays), strict=True):
            np.testing.assert_allclose(one[0], other, atol=tolerance)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Recordings:
    folder = tmp_path_factory.mktemp("recordings")
    (folder / "takes").mkdir()
    for seed in range(3):
        made = sing([Note(50 + 5 * seed, 1.2, "a", "s"), Note(57, 1.2, "i", "m")], 48_000, seed=seed)
        with AudioFile(str(folder / "takes" / f"take {seed}.wav"), "w", 48_000, 1) as file:
            file.write(made.audio)
    pack(folder, [Corpus("takes", "singer", hold_out=3)], folder / "packed")
    return Recordings(folder / "packed")


def test_crops_keep_pitch_and_time(recordings: Recordings) -> None:
    config = dataclasses.replace(BRIEF, batch=4, frames=100, blur=0.0, lingering=0.0)
    batch = draw(recordings, config, np.random.default_rng(5))
    for audio, f0, voiced, mel in zip(batch.audio, batch.f0, batch.voiced, batch.mel, strict=True):
        found = track_pitch(audio.numpy(), SAMPLE_RATE)
        at = found.times_s * SAMPLE_RATE / HOP
        sure = found.voiced & (np.interp(at, np.arange(100), voiced.numpy()) == 1)
        cents = 1200 * np.log2(found.hz[sure] / np.interp(at[sure], np.arange(100), f0.numpy()))
        assert np.median(np.abs(cents)) < 10
        np.testing.assert_allclose(mel.numpy(), normalise(log_mel(audio.numpy()))[:100], atol=1e-5)


@pytest.mark.parametrize(("steps", "adversarial_steps"), [(4, 0), (1, 3)])
def test_an_interrupted_run_goes_on_exactly(recordings: Recordings, tmp_path: Path, steps: int, adversarial_steps: int) -> None:
    def run(work: Path, stop_after: int | None) -> Vocoder:
        work.mkdir(exist_ok=True)

        def report(progress: Progress) -> None:
            if progress.step == stop_after:
                signal.raise_signal(signal.SIGINT)

        return fit(recordings, work, steps, adversarial_steps, report, config=BRIEF, sizes=SMALL, report_every=1)

    whole = run(tmp_path / "whole", None)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "interrupted", 3)
    assert torch.load(tmp_path / "interrupted" / "vocoder.pt", weights_only=True)["step"] == 3
    resumed = run(tmp_path / "interrupted", None)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_training_lowers_the_loss(recordings: Recordings, tmp_path: Path) -> None:
    seen: list[Progress] = []
    config = dataclasses.replace(BRIEF, learning_rate=1e-2, average=0.9)
    fit(recordings, tmp_path, 40, 0, seen.append, config=config, sizes=SMALL, report_every=10)
    assert seen[-1].held_out < 0.93 * seen[0].held_out
    assert not any(p.discriminators for p in seen)
