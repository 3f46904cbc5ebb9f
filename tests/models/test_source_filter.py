"""The parts of the source-filter converter against formulas and second implementations, and its training against a kill."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("swift_f0")

import signal  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from pedalboard.io import AudioFile  # noqa: E402
from small_recipes import use_small_recipes  # noqa: E402

from dsp.equaliser import centres_hz  # noqa: E402
from dsp.mel import hz_to_mel  # noqa: E402
from dsp.singer import Note, sing  # noqa: E402
from models.device import CPU  # noqa: E402
from models.interruption import Interruption  # noqa: E402
from models.pack import VoicePack  # noqa: E402
from models.source_filter import adapt, features, synthesis  # noqa: E402
from models.source_filter.adapt import train_voice  # noqa: E402
from models.source_filter.data import Corpus, Recordings, pack  # noqa: E402
from models.source_filter.disturb import disturb  # noqa: E402
from models.source_filter.export import StepGraph, Tone, export_stream, knot_matrix, phase_basis  # noqa: E402
from models.source_filter.fourier import InverseRealDFT, RealDFT, bin_order, hermitian_weight  # noqa: E402
from models.source_filter.network import Network, NetworkConfig  # noqa: E402
from models.source_filter.offset import OFFSET_HZ, OffsetFilter  # noqa: E402
from models.source_filter.tracker import load_tracker  # noqa: E402
from models.source_filter.train import TrainingConfig, TrainingProgress, fit  # noqa: E402
from models.source_filter.weights import Trained, load_checkpoint  # noqa: E402
from models.stream import StreamModel  # noqa: E402

torch.set_num_threads(1)
TINY = TrainingConfig(
    seed=3, batch=2, context_chunks=8, warm_chunks=2, chunks=16, helpers=0.0, learning_rate=1e-3, average=0.99, consistency=0.3
)


@pytest.fixture(scope="module")
def recordings_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    for seed in range(6):
        song = sing([Note(50 + seed, 2.0, "a", "s"), Note(57, 2.5, "i", "m")], 48_000, seed=seed)
        with AudioFile(str(folder / f"take {seed}.wav"), "w", 48_000, 1) as file:
            file.write(song.audio)
    return folder


@pytest.fixture(scope="module")
def packed(recordings_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, packed."""
    folder = tmp_path_factory.mktemp("packed")
    pack(recordings_folder, [Corpus(folder=".", voice="one", hold_out=3)], folder)
    return folder


@pytest.fixture
def brief(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small batches of short crops, in both stages of adapting."""
    use_small_recipes(monkeypatch, tmp_path)


@pytest.mark.parametrize(("samples", "groups"), [(512, 16), (1024, 6)])
def test_factored_dft_is_numpys(samples: int, groups: int) -> None:
    x = np.random.default_rng(0).standard_normal((3, samples)).astype(np.float32)
    ours = RealDFT(samples, groups)(torch.from_numpy(x)).numpy()
    wanted = np.fft.rfft(x, 1024)[:, bin_order(groups)]
    np.testing.assert_allclose(ours[:, :, 0] + 1j * ours[:, :, 1], wanted, atol=1e-4)


def test_factored_inverse_dft_is_numpys() -> None:
    spectrum = np.fft.rfft(np.random.default_rng(1).standard_normal((3, 1024)))
    spectrum[:, 512] = 0
    weighted = (spectrum[:, bin_order(16)] * hermitian_weight()).astype(np.complex64)
    ours = InverseRealDFT()(torch.from_numpy(np.stack([weighted.real, weighted.imag], 2))).numpy()
    np.testing.assert_allclose(ours, np.fft.irfft(spectrum), atol=1e-5)


@pytest.mark.parametrize("f0", [61.0, 440.0, 1087.0])
def test_pulse_train_is_the_sum_of_its_harmonics(f0: float) -> None:
    phase = (np.arange(4800) * f0 / 48_000) % 1.0
    count = int(0.49 * 48_000 / f0)
    wanted = sum(np.cos(2 * np.pi * k * phase) for k in range(1, count + 1)) / np.sqrt(count / 2)
    ours = synthesis.pulse_train(torch.tensor(phase, dtype=torch.float32), torch.tensor(float(count))).numpy()
    np.testing.assert_allclose(ours, wanted, atol=2e-3 * np.abs(wanted).max())


def test_phase_is_the_sum_of_a_linear_frequency() -> None:
    knots = np.array([200.0, 260.0, 180.0, 190.0])
    f0 = np.concatenate([np.linspace(knots[k], knots[k + 1], 256, endpoint=False) for k in range(3)])
    wanted = 0.3 + np.cumsum(f0) / 48_000
    np.testing.assert_allclose(np.array([0.3, *knots]) @ phase_basis(), wanted, atol=1e-9)


def test_offsets_are_taken_off_by_the_recursion_of_one_pole() -> None:
    audio = (np.random.default_rng(1).standard_normal(20 * 512) * 0.1 + 0.5).astype(np.float32)
    memory, mean, wanted = np.exp(-2 * np.pi * OFFSET_HZ / 48_000), 0.0, []
    for x in audio.astype(np.float64):
        mean = memory * mean + (1 - memory) * x
        wanted.append(x - mean)
    step, state, stepped = OffsetFilter(), torch.zeros(1, 1), []
    for chunk in torch.from_numpy(audio).reshape(-1, 1, 512):
        out, state = step(chunk, state)
        stepped.append(out[0].numpy())
    np.testing.assert_allclose(np.concatenate(stepped), wanted, atol=1e-6)


def test_noise_is_white_but_for_what_nobody_hears() -> None:
    """Its stretches, added again, as loops: the power of their bins."""
    frames, hop = synthesis.NOISE_FRAMES[0], 256
    spectra = synthesis.noise_spectra()[:frames]
    stretches = np.fft.irfft(spectra[:, : synthesis.BINS] + 1j * spectra[:, synthesis.BINS :])[:, : 2 * hop].reshape(frames, 2, hop)
    loop = (stretches[:, 0] + np.roll(stretches[:, 1], 1, axis=0)).ravel()
    power, hz = np.abs(np.fft.rfft(loop)) ** 2 / len(loop) * 2, np.fft.rfftfreq(len(loop), 1 / 48_000)
    assert power[(hz > 30) & (hz < 24_000)].mean() == pytest.approx(1.0, abs=0.05)
    assert power[hz < 6].max() < 1e-3


def test_filters_are_minimum_phase() -> None:
    """Their impulse responses are causal, and the magnitude is the one asked for (Hilbert relation checked by numpy's FFT)."""
    gains = np.random.default_rng(2).standard_normal(synthesis.GAINS) * 1.5
    gains = np.convolve(np.pad(gains, 8, mode="edge"), np.hanning(17) / 8, "valid")
    log_magnitude, phase = np.split(gains @ synthesis.minimum_phase_matrix(), 2)
    response = np.fft.irfft(np.exp(log_magnitude + 1j * phase))
    assert np.sum(response[512:] ** 2) < 1e-4 * np.sum(response**2)
    hz = np.arange(synthesis.BINS) * 48_000 / synthesis.FFT
    wanted = np.interp(hz_to_mel(hz), hz_to_mel(synthesis.gain_centres_hz()), gains)
    np.testing.assert_allclose(log_magnitude, wanted, atol=0.02)


def test_formant_ratio_moves_the_envelope_and_one_leaves_it() -> None:
    centres = synthesis.gain_centres_hz()
    gains = torch.tensor(np.exp(-((np.log(centres + 1) - np.log(1000)) ** 2) / 0.1)[None], dtype=torch.float32)
    np.testing.assert_allclose(synthesis.warp_gains(gains, torch.ones(1)), gains, atol=1e-4)
    moved = synthesis.warp_gains(gains, torch.tensor([1.5]))[0].numpy()
    assert centres[np.argmax(moved)] == pytest.approx(1500, rel=0.06)


def test_the_running_mean_is_that_of_the_energies_and_of_none_far_above_them() -> None:
    """The recursion again, in numpy; the fourth chunk is a bump, 30 dB above the rest."""
    torch.manual_seed(0)
    mean = features.RunningMean(4)
    mean.prior.copy_(torch.arange(4.0))
    values, loudness = torch.randn(2, 30, 4), 0.3 * torch.randn(2, 30, 1) - 4
    loudness[:, 3] += 3.45
    memory = np.exp(-512 / 48_000 / 2)
    total, heard, wanted = np.zeros((2, 4)), np.zeros((2, 1)), []
    for k in range(30):
        energy = np.exp(2 * loudness[:, k].numpy())
        weight = np.minimum(energy, 10 * (1 - memory) * (heard + 0.4))
        assert (weight < 0.4 * energy).all() if k == 3 else (weight == energy).all(), k
        total, heard = memory * total + weight * values[:, k].numpy(), memory * heard + weight
        wanted.append((total + 1e-4 * np.arange(4)) / (heard + 1e-4))
    np.testing.assert_allclose(mean.sequence(values, loudness), np.stack(wanted, 1), atol=1e-4)


def test_a_louder_take_has_the_same_shape() -> None:
    energy = torch.rand(1, 3, features.BANDS) + 0.1
    shape, loudness = features.split_loudness(energy)
    louder_shape, louder = features.split_loudness(100 * energy)
    np.testing.assert_allclose(shape, louder_shape, atol=1e-5)
    np.testing.assert_allclose(louder - loudness, np.log(10.0), atol=1e-5)


def test_disturbance_differs_between_clips_and_repeats_from_its_seed() -> None:
    energy = torch.rand(1, 40, features.BANDS).repeat(2, 1, 1) + 0.01
    first, again = (disturb(energy, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.isfinite(first).all() and (first > 0).all()
    assert (torch.log(first[0]) - torch.log(first[1])).abs().mean() > 0.3


def test_graph_in_the_runtime_is_the_graph_in_torch() -> None:
    torch.manual_seed(0)
    network = Network(NetworkConfig(voices=2)).eval()
    for block in [*network.encoder.blocks, *network.decoder.blocks]:
        torch.nn.init.normal_(block.project.weight, std=0.05)
    prior, tracker = torch.zeros(features.BANDS + 1), load_tracker()
    tones = [Tone(), Tone((100.0, 220.0))]
    graph = StepGraph(network, prior, tracker, [0, 1], tones).eval()
    model = StreamModel.from_bytes(export_stream(network, prior, tracker, {"a": 0, "b": 1}, tones, integer=False), "graph")
    free, led = model.open(), model.open()
    song = sing([Note(55, 0.5, "a")], 48_000).audio
    states = {name: torch.zeros(shape) for name, shape in graph.state_shapes().items()}
    for stream in (free, led):
        stream.voice[:] = 0.3, 0.7
        stream.pitch_ratio[:], stream.formant_ratio[:] = 1.2, 0.9
    controls = (torch.tensor([[0.3, 0.7]]), torch.tensor([1.2]), torch.tensor([0.9]))
    for number, chunk in enumerate(song[: len(song) // 512 * 512].reshape(-1, 512)):
        for name, state in states.items():
            led._states[led._now][f"state_{name}"][:] = state
        with torch.no_grad():
            out, *after = graph(torch.from_numpy(chunk)[None], *controls, *states.values())
        states = dict(zip(states, after, strict=True))
        bound = max(0.01, float(out.abs().max()))
        for stream in (free, led):
            stream.audio_in[:] = chunk
            stream.step()
        # From the same state. By itself a runtime's rounding of the pitch, 1e-6 of it, adds up to a phase that the hundredth
        # harmonic shows after a while in single samples, on one processor more than on another.
        np.testing.assert_allclose(led.audio_out, out[0].numpy(), atol=2e-4 * bound)
        assert np.sqrt(np.mean(np.square(free.audio_out - out[0].numpy()))) <= 2e-4 * bound
        if number < 20:
            np.testing.assert_allclose(free.audio_out, out[0].numpy(), atol=5e-4 * bound)


Conversion = Callable[[float, tuple[float, float]], Any]


def conversion(network: Network, tones: list[Tone]) -> Conversion:
    """By a graph: what it makes, at a pitch ratio and in a mix, of a vowel on 220 Hz, once it has forgotten how it began."""
    tracker = load_tracker()
    graph = export_stream(network, torch.zeros(features.BANDS + 1), tracker, {"a": 0, "b": 1}, tones, integer=False)
    model = StreamModel.from_bytes(graph, "graph")

    def converted(pitch_ratio: float, voice: tuple[float, float]) -> Any:
        stream = model.open()
        stream.voice[:], stream.pitch_ratio[:] = voice, pitch_ratio
        made = []
        for chunk in sing([Note(57, 1.0, "a")], 48_000, vibrato_cents=0).audio[: 90 * 512].reshape(-1, 512):
            stream.audio_in[:] = chunk
            stream.step()
            made.append(stream.audio_out.copy())
        return np.concatenate(made[60:])

    return converted


def test_beyond_its_own_range_a_voice_keeps_the_timbre_of_the_edge() -> None:
    torch.manual_seed(0)
    network = Network(NetworkConfig(voices=2)).eval()
    with torch.no_grad():  # a voice that is all the darker the higher it sings
        network.decoder.leave.weight.normal_(std=0.05)
        network.decoder.enter.weight[:, network.config.content :].normal_()
    own, other = (1.0, 0.0), (0.0, 1.0)
    free, narrow, edge = (conversion(network, [tone, Tone()]) for tone in (Tone(), Tone((180.0, 260.0)), Tone((180.0, 440.0))))
    assert np.array_equal(free(1.0, own), narrow(1.0, own))
    high, up, up_to_edge = free(2.0, own), narrow(2.0, own), edge(2.0, own)
    assert np.abs(high - up).max() > 0.01 * np.abs(up).max()
    assert np.array_equal(free(2.0, other), narrow(2.0, other))
    # At the edge itself, which lies 4 % above the highest pitch heard, both are one.
    assert np.abs(high - up_to_edge).max() < 0.05 * np.abs(up_to_edge).max()
    assert np.isfinite(narrow(2.0, (0.0, 0.0))).all()


def test_emphasis_moves_a_voice_away_from_the_mean_of_its_bank() -> None:
    torch.manual_seed(0)
    network = Network(NetworkConfig(voices=2)).eval()
    torch.nn.init.normal_(network.decoder.leave.weight, std=0.05)
    plain, twice, none = (conversion(network, [Tone(emphasis=emphasis)] * 2) for emphasis in (1.0, 2.0, 0.0))
    # Emphasised twofold, the voice lies as far outside of the two as a mix of 3:-1 would.
    np.testing.assert_allclose(twice(1.0, (1.0, 0.0)), plain(1.0, (1.5, -0.5)), atol=1e-5)
    assert np.array_equal(none(1.0, (1.0, 0.0)), none(1.0, (0.0, 1.0)))


def test_an_equaliser_is_heard_in_its_own_voice_alone() -> None:
    torch.manual_seed(0)
    network = Network(NetworkConfig(voices=2)).eval()
    levels = np.where(centres_hz() < 1_500, 0.0, -9.0)
    plain, dark = (conversion(network, [tone, Tone()]) for tone in (Tone(), Tone(equaliser_db=levels)))
    assert np.array_equal(plain(1.0, (0.0, 1.0)), dark(1.0, (0.0, 1.0)))
    hz = np.fft.rfftfreq(30 * 512, 1 / 48_000)
    for weights, wanted in (((1.0, 0.0), -9.0), ((0.5, 0.5), -4.5)):
        before, after = (np.abs(np.fft.rfft(converted(1.0, weights))) ** 2 for converted in (plain, dark))
        for low, high, change in ((300, 1_000, 0.0), (2_500, 7_000, wanted)):
            inside = (hz > low) & (hz < high)
            assert 10 * np.log10(after[inside].sum() / before[inside].sum()) == pytest.approx(change, abs=0.7)


def test_a_killed_training_goes_on_exactly(packed: Path, tmp_path: Path) -> None:
    recordings = Recordings(packed)
    (tmp_path / "whole").mkdir()
    (tmp_path / "halves").mkdir()
    reports: list[int] = []
    whole = fit(recordings, TINY, tmp_path / "whole", 6, lambda now: reports.append(now.step), report_every=2)

    def kill(now: TrainingProgress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(recordings, TINY, tmp_path / "halves", 6, kill, report_every=4, save_seconds=0)
    resumed = fit(recordings, TINY, tmp_path / "halves", 6, lambda now: None)
    assert reports == [2, 4, 6]
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name]), name


def test_a_terminated_training_has_lost_no_step(packed: Path, tmp_path: Path) -> None:
    """The signal comes in the middle of the second step, long before a checkpoint would be due."""
    (tmp_path / "whole").mkdir()
    (tmp_path / "halves").mkdir()
    whole = fit(Recordings(packed), TINY, tmp_path / "whole", 3, lambda now: None)

    class Terminated(Recordings):
        drawn = 0

        def crop(self, *arguments: Any, **options: Any) -> Any:
            self.drawn += 1
            if self.drawn == 3:  # the first is for the mean spectrum
                signal.raise_signal(signal.SIGTERM)
            return super().crop(*arguments, **options)

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        with pytest.raises(SystemExit):
            fit(Terminated(packed), TINY, tmp_path / "halves", 3, lambda now: None)
        assert signal.getsignal(signal.SIGTERM) is end
    finally:
        signal.signal(signal.SIGTERM, before)
    assert torch.load(tmp_path / "halves" / "checkpoint.pt", weights_only=True)["step"] == 2
    resumed = fit(Recordings(packed), TINY, tmp_path / "halves", 3, lambda now: None)
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name]), name


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs POSIX signals")
def test_a_terminal_that_is_closed_tells_twice_and_loses_no_step() -> None:
    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGHUP, end)
    try:
        with pytest.raises(SystemExit), Interruption() as interruption:
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGHUP)
            ended = interruption.came
    finally:
        signal.signal(signal.SIGHUP, before)
    assert ended


def test_a_second_interrupt_does_not_wait() -> None:
    with pytest.raises(KeyboardInterrupt), Interruption() as interruption:
        signal.raise_signal(signal.SIGINT)
        assert interruption.came
        signal.raise_signal(signal.SIGINT)
        pytest.fail("the second one waited, too")


def test_a_voice_from_a_folder(recordings_folder: Path, tmp_path: Path, brief: None) -> None:
    steps: list[int] = []
    told: list[str] = []
    path = train_voice(
        "myself",
        recordings_folder,
        tmp_path,
        steps=4,
        minutes=None,
        threads=1,
        device=CPU,
        tell=told.append,
        progress=lambda now: steps.append(now.step),
    )
    assert not told
    opened = VoicePack.open(path)
    low, high = opened.manifest.voices[0].f0_range_hz
    # The songs lie between D3 (146.8 Hz) and A3 (220 Hz).
    assert 130 < low < 180 and 200 < high < 250
    assert opened.stream_model().voices == ("myself",)
    # Three steps from the recordings alone, the fourth against discriminators.
    assert steps == [3, 4]
    encoders = [torch.load(tmp_path / name, weights_only=True)["average"] for name in ("checkpoint.pt", "adversarial.pt")]
    changed = {name for name in encoders[0] if not torch.equal(encoders[0][name], encoders[1][name])}
    assert changed and all(name.startswith(("decoder", "voices")) for name in changed)


def test_steps_that_too_few_minutes_left_undone_are_made_up_for(packed: Path, tmp_path: Path, brief: None) -> None:
    """Seven steps and three against discriminators: in no time neither begins, then there is time for both."""
    recordings = Recordings(packed)

    def train(stop_at: float) -> list[int]:
        seen: list[int] = []
        adapt.adapt("one", recordings, tmp_path, 10, stop_at, lambda now: seen.append(now.step))
        return seen

    assert train(0.0) == []
    early = load_checkpoint(tmp_path / "adversarial.pt")
    assert train(float("inf")) == [7, 10]
    plain, sharp = (load_checkpoint(tmp_path / name) for name in ("checkpoint.pt", "adversarial.pt"))

    def distance(one: Trained, other: Trained) -> float:
        pairs = zip(one.network.parameters(), other.network.parameters(), strict=True)
        return sum((a - b).square().sum().item() for a, b in pairs)

    # Against discriminators it went on from what the steps before them came to, not from what there was when the time was over.
    assert 0 < distance(sharp, plain) < 0.1 * distance(sharp, early)
    assert train(float("inf")) == []


def test_knots_follow_a_straight_glide_and_a_steady_tone() -> None:
    """Pitch that rises by 2 Hz a hop, heard late by what the weights assume: the knots rise with it, and lean forward by less
    than the 15 ms that the tracker can be late; a steady pitch stays what it is."""
    for lowness in (0.0, 1.0):
        change = np.full(4, 2.0)
        glide = np.concatenate([200 + 2.0 * np.arange(5), change, change * lowness]) @ knot_matrix()
        ahead = (glide - (200 + 2.0 * np.arange(2, 6))) / 2.0 * 256 / 48.0  # ms
        assert (ahead[:3] > -2).all() and (ahead < 15).all() and (np.diff(glide) > 0).all()
        steady = np.concatenate([np.full(5, 200.0), np.zeros(8)]) @ knot_matrix()
        np.testing.assert_allclose(steady, 200.0)
