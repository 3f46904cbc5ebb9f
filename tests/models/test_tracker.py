import io
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from pedalboard.io import AudioFile

torch = pytest.importorskip("torch")

from models.source_filter import train_tracker  # noqa: E402
from models.source_filter.features import HOP, SAMPLE_RATE  # noqa: E402
from models.source_filter.tracker import ANALYSIS_RATE, PitchTracker, load_tracker, track  # noqa: E402

CHUNK = 2 * HOP


@pytest.fixture(scope="module")
def tracker() -> PitchTracker:
    return load_tracker()


def tone(f0: NDArray[np.float64], amplitude: float = 0.1) -> NDArray[np.float32]:
    """A buzz below 5 kHz with f0 [n] in Hz, 12 dB an octave: Fourier's sum, nothing of ours."""
    phase = 2 * np.pi * np.cumsum(f0) / SAMPLE_RATE
    harmonics = range(1, int(5000 / f0.max()) + 1)
    x = sum(np.sin(k * phase) / k**1.5 for k in harmonics)
    return (amplitude * np.asarray(x)).astype(np.float32)


def cents(f0: NDArray[np.float64], truth: NDArray[np.float64] | float) -> NDArray[np.float64]:
    return np.asarray(1200 * np.log2(f0 / truth))


@pytest.mark.parametrize("level_db", [-6, -40])
@pytest.mark.parametrize("hz", [62.0, 87.3, 110.0, 196.0, 293.7, 440.0, 660.0, 880.0, 1080.0])
def test_steady_tones_from_the_lowest_to_the_highest_pitch(tracker: PitchTracker, hz: float, level_db: float) -> None:
    times, f0, voicing = track(tone(np.full(SAMPLE_RATE, hz), 10 ** (level_db / 20) / 2), SAMPLE_RATE, tracker)
    inside = (times > 0.15) & (times < 0.95)
    assert (voicing[inside] > 0.5).mean() > 0.99
    off = np.abs(cents(f0[inside], hz))
    assert (off > 600).mean() == 0
    assert np.median(off) < 10


def test_estimates_belong_to_the_time_they_are_given_for(tracker: PitchTracker) -> None:
    """A glide of an octave a second: 10 ms of misalignment would be 12 cents, with opposite signs up and down."""
    t = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
    offsets = []
    for direction in (1, -1):
        f0 = 220 * 2 ** (direction * (t - 1) / 2)
        times, found, _ = track(tone(f0), SAMPLE_RATE, tracker)
        inside = (times > 0.2) & (times < 1.9)
        offsets.append(np.median(cents(found[inside], np.interp(times[inside], t, f0))))
    lag_ms = -(offsets[0] - offsets[1]) / 2 / 0.6
    assert abs(lag_ms) < 4


def test_vibrato_is_followed(tracker: PitchTracker) -> None:
    t = np.arange(3 * SAMPLE_RATE) / SAMPLE_RATE
    f0 = 330 * 2 ** (80 / 1200 * np.sin(2 * np.pi * 5.5 * t))
    times, found, _ = track(tone(f0), SAMPLE_RATE, tracker)
    inside = (times > 0.3) & (times < 2.9)
    off = cents(found[inside], 330.0)
    phase = 2 * np.pi * 5.5 * times[inside]
    depth = 2 * np.hypot((off * np.sin(phase)).mean(), (off * np.cos(phase)).mean())
    assert 72 < depth < 88


def test_silence_and_noise_are_unvoiced_and_hold_the_last_pitch(tracker: PitchTracker) -> None:
    rng = np.random.default_rng(0)
    n = SAMPLE_RATE
    x = np.concatenate([np.zeros(n), tone(np.full(n, 247.0)), np.zeros(n), 0.1 * rng.normal(size=n)]).astype(np.float32)
    times, f0, voicing = track(x, SAMPLE_RATE, tracker)
    assert np.isfinite(f0).all() and (f0 > 0).all()
    # From silence nothing is known, and a usable pitch is given all the same.
    assert (voicing[times < 0.95] < 0.5).all()
    np.testing.assert_allclose(f0[times < 0.95], 150, rtol=1e-5)
    voiced = times[voicing > 0.5]
    assert abs(voiced[0] - 1.0) < 0.02 and abs(voiced[np.searchsorted(voiced, 2.5) - 1] - 2.0) < 0.06
    after = (times > 2.1) & (times < 2.9)
    assert (voicing[after] < 0.5).all()
    assert np.abs(cents(f0[after], 247.0)).max() < 600
    assert np.ptp(f0[after]) == 0
    assert (voicing[times > 3.1] < 0.5).mean() > 0.97


def test_the_same_however_the_audio_is_cut(tracker: PitchTracker) -> None:
    rng = np.random.default_rng(1)
    f0 = 180 * 2 ** (0.5 * np.sin(2 * np.pi * np.arange(40 * CHUNK) / 30000))
    audio = torch.from_numpy((tone(f0) + 0.003 * rng.normal(size=len(f0))).astype(np.float32))[None]
    with torch.no_grad():
        whole = tracker(audio, tracker.initial_state())
        state, parts = tracker.initial_state(), []
        for chunk in audio.split(CHUNK, dim=1):
            pitch, voicing, state = tracker(chunk, state)
            parts.append((pitch, voicing))
    assert pitch.shape == voicing.shape == (1, 2)
    for i in range(2):
        np.testing.assert_allclose(torch.cat([part[i] for part in parts], dim=1), whole[i], rtol=1e-3, atol=1e-4)
    assert [value.shape for value in state] == [value.shape for value in tracker.initial_state()]
    assert len(tracker.state_names) == len(state)


def test_runs_as_a_graph_of_plain_operators(tracker: PitchTracker) -> None:
    class Graph(torch.nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.tracker = tracker

        def forward(self, audio: Any, *state: Any) -> tuple[Any, ...]:
            f0, voicing, following = self.tracker(audio, state)
            return f0, voicing, *following

    state = tracker.initial_state()
    file = io.BytesIO()
    names = ["audio", *(f"state_{name}" for name in tracker.state_names)]
    torch.onnx.export(
        Graph(), (torch.zeros(1, CHUNK), *state), file, input_names=names, opset_version=17, dynamo=False
    )
    model = onnx.load_from_string(file.getvalue())
    assert not {node.op_type for node in model.graph.node} & {"DFT", "STFT", "Loop", "Scan", "If", "GRU"}
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    values = [value.numpy() for value in state]
    f0 = []
    x = tone(np.full(40 * CHUNK, 262.0))
    for start in range(0, len(x), CHUNK):
        found, _, *values = session.run(None, dict(zip(names, [x[None, start : start + CHUNK], *values], strict=True)))
        f0.extend(found[0])
    _, expected, _ = track(x, SAMPLE_RATE, tracker)
    np.testing.assert_allclose(f0, expected[: len(f0)], rtol=1e-3)


def test_a_batch_is_as_good_as_one(tracker: PitchTracker) -> None:
    low, high = (torch.from_numpy(tone(np.full(20 * CHUNK, hz))) for hz in (110.0, 440.0))
    with torch.no_grad():
        f0, _, _ = tracker(torch.stack([low, high]), tracker.initial_state(2))
    np.testing.assert_allclose(f0[:, -1], [110, 440], rtol=0.01)


def test_a_singing_voice(tracker: PitchTracker) -> None:
    """Consonants, vibrato and portamento, at three heights; the singer knows its own f0 at every sample."""
    from dsp.singer import Note, sing

    for lowest in (45, 57, 72):
        notes = [Note(lowest + step, 0.4, vowel) for step, vowel in zip((0, 4, 7, 5, 12, 2), "aeioua", strict=True)]
        song = sing(notes, SAMPLE_RATE, seed=lowest)
        times, f0, voicing = track(song.audio, SAMPLE_RATE, tracker)
        at = np.clip(np.round(times * SAMPLE_RATE).astype(int), 0, len(song.audio) - 1)
        both = song.voiced[at] & (voicing > 0.5)
        off = np.abs(cents(f0[both], song.f0_hz[at][both]))
        assert (off > 600).mean() <= 0.02
        assert np.median(off) <= 10
        assert (song.voiced[at] == (voicing > 0.5)).mean() >= 0.9


def test_other_rates_and_wrong_shapes(tracker: PitchTracker) -> None:
    pytest.importorskip("soxr")
    x = tone(np.full(SAMPLE_RATE, 200.0))
    times, f0, _ = track(x[::3], SAMPLE_RATE / 3, tracker)
    assert times[-1] == pytest.approx(1.0, abs=0.01)
    assert np.median(f0[times > 0.2]) == pytest.approx(200, rel=0.005)
    with pytest.raises(ValueError, match=r"mono.*\(2, 48000\)"):
        track(np.stack([x, x]), SAMPLE_RATE, tracker)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", weight=np.zeros(3))
    with pytest.raises(ValueError, match=r"other\.npz does not hold the weights"):
        load_tracker(tmp_path / "other.npz")


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    rng = np.random.default_rng(2)
    folder = tmp_path / "takes"
    folder.mkdir()
    for i in range(1, 4):
        audio = train_tracker.synthesise(rng, 4.0).audio
        with AudioFile(str(folder / f"take{i}.wav"), "w", ANALYSIS_RATE, 1) as file:
            file.write(audio.astype(np.float32)[None] / 32768)
    return folder


def test_a_killed_training_goes_on_as_if_nothing_had_happened(
    recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("swift_f0")
    monkeypatch.setattr(train_tracker, "CHECKPOINT_S", 0.0)
    monkeypatch.setattr(train_tracker, "SYNTHETIC_CLIPS", 2)

    def run(name: str) -> dict[str, NDArray[np.float16]]:
        out = tmp_path / f"{name}.npz"
        train_tracker.train([recordings], out, tmp_path / name, steps=4, batch=2, rate=1e-3, seed=3)
        with np.load(out, allow_pickle=False) as arrays:
            return dict(arrays)

    unbroken = run("unbroken")
    draw, drawn = train_tracker.draw, []

    def killed(*arguments: Any) -> Any:
        drawn.append(1)
        if len(drawn) == 3:
            raise KeyboardInterrupt
        return draw(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(train_tracker, "draw", killed)
        with pytest.raises(KeyboardInterrupt):
            run("broken")
    resumed = run("broken")
    assert unbroken.keys() == resumed.keys()
    for name in unbroken:
        np.testing.assert_array_equal(unbroken[name], resumed[name])
    assert not [path for path in tmp_path.rglob("*") if ".part" in path.name]


def test_a_terminated_training_keeps_the_step_under_way(
    recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("swift_f0")
    monkeypatch.setattr(train_tracker, "SYNTHETIC_CLIPS", 2)
    draw, out, came = train_tracker.draw, tmp_path / "tracker.npz", []
    monkeypatch.setattr(train_tracker, "draw", lambda *told: (signal.raise_signal(signal.SIGTERM), draw(*told))[1])
    before = signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    try:
        train_tracker.train([recordings], out, tmp_path / "cache", steps=4, batch=2, rate=1e-3, seed=3)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "synthetic voice 2 of 2, " in capsys.readouterr().out
    assert came == [signal.SIGTERM] and torch.load(tmp_path / "cache" / "checkpoint.pt")["step"] == 1
    monkeypatch.setattr(train_tracker, "draw", draw)
    out.unlink()
    for steps, lines in ((2, ["step 2 "]), (2, [])):  # the second has nothing to do but to write the weights
        capsys.readouterr()
        train_tracker.train([recordings], out, tmp_path / "cache", steps=steps, batch=2, rate=1e-3, seed=3)
        assert [line[:7] for line in capsys.readouterr().out.splitlines() if line.startswith("step")] == lines
        load_tracker(out)
        out.unlink()


def test_recordings_that_teach_nothing_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("swift_f0")
    with pytest.raises(ValueError, match=r"expected recordings in .*, found none besides those that are held out"):
        train_tracker.build_corpus([tmp_path], tmp_path / "cache", 0)
    for number in (1, 2):
        with AudioFile(str(tmp_path / f"take{number}.wav"), "w", ANALYSIS_RATE, 1) as file:
            file.write(np.zeros((1, ANALYSIS_RATE), np.float32))
    with pytest.raises(ValueError, match="found no pitch anywhere"):
        train_tracker.build_corpus([tmp_path], tmp_path / "cache", 0)


def test_synthetic_voices_sound_at_the_pitch_they_are_labelled_with() -> None:
    """The strongest lag of the autocorrelation, where a long steady stretch is voiced, is a whole number of periods."""
    rng = np.random.default_rng(5)
    checked = 0
    for _ in range(40):
        corpus = train_tracker.synthesise(rng)
        for i in range(20, len(corpus.bins) - 20):
            around = slice(i - 12, i + 13)
            if corpus.weight[around].min() == 1 and np.ptp(corpus.bins[around]) < 0.5:
                centre = round(64 * i - train_tracker.TARGET_LAG)
                x = corpus.audio[centre - 600 : centre + 600].astype(np.float64)
                period = ANALYSIS_RATE / (55 * 2 ** (corpus.bins[i] / 36))
                two = round(2 * period)
                if np.corrcoef(x[:-two], x[two:])[0, 1] > 0.7:
                    checked += 1
                    break
    assert checked >= 10


def test_held_out_recordings() -> None:
    held: Callable[[int, str], bool] = lambda index, name: train_tracker.is_held_out(index, Path(name))  # noqa: E731
    assert held(0, "x.wav") and held(10, "take3.wav") and held(3, "pjs045_song.ogg") and held(4, "de_rhasspy-0120.ogg")
    assert not held(1, "pjs044_song.ogg") and not held(2, "x.wav")


@pytest.mark.parametrize("low_hz", [60, 800])
def test_the_tracker_is_measured_on_songs_within_the_range_and_keeps_its_promises_there(tracker: PitchTracker, low_hz: int) -> None:
    pytest.importorskip("swift_f0")
    high_hz = dict(train_tracker.RANGES)[low_hz]
    for song in train_tracker.sung(low_hz, high_hz, 5.0, 3):
        told = song.f0_hz[song.voiced]
        assert np.percentile(told, 1) > 0.95 * low_hz and np.percentile(told, 99) < 1.05 * high_hz
    figures = train_tracker.score_singer(tracker, low_hz, high_hz, 5.0)
    assert figures["gross"] <= 0.01 and figures["voicing"] >= 0.95
    assert figures["cents"] <= 10 and figures["onset_ms"] <= 20
