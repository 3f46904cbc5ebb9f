"""The resampler against theory: sinusoids at exact positions, stop band, delay, and independence of the blocks."""

import math
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from dsp import resampling
from dsp.resampling import Resampler, exact_rate, reach

RATES = [
    (44_100, 48_000),
    (48_000, 44_100),
    (96_000, 48_000),
    (48_000, 96_000),
    (16_000, 48_000),
    (48_000, 16_000),
    (22_050, 48_000),
    (192_000, 44_100),
    (8_000, 192_000),
    (192_000, 8_000),
    (44_099, 48_000),  # more phases than the table has rows
    (48_000, 22_050.5),
    (191_999.99, 48_000),
]


def resample(
    signal: NDArray[np.float32], in_rate: float, out_rate: float, delay: Fraction = Fraction(0), seed: int | None = None
) -> NDArray[np.float32]:
    """All that comes out of [channels, n]; in one piece, or, with a seed, in random pieces in and out."""
    rng = np.random.default_rng(seed)
    channels, n = signal.shape
    resampler = Resampler(
        exact_rate(in_rate), exact_rate(out_rate), channels, push=n, pending=0 if seed is None else n, delay=delay
    )
    pieces, start = [], 0
    while start < n:
        size = n if seed is None else int(rng.integers(1, 200))
        resampler.push(signal[:, start : start + size])
        start += size
        ready = resampler.ready
        if seed is not None and start < n:
            ready = int(rng.integers(0, ready + 1))
        piece = np.empty((channels, ready), np.float32)
        resampler.pull(piece)
        pieces.append(piece)
    return np.concatenate(pieces, axis=1)


def tones(frequencies: list[float], rate: float, position: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum of sinusoids at positions in samples of `rate`."""
    return sum((np.sin(2 * np.pi * f / rate * position + i) for i, f in enumerate(frequencies)), np.zeros(len(position)))


@pytest.mark.parametrize("rates", RATES)
@pytest.mark.parametrize("delay", [0.0, 12.25, 100.0])
def test_output_is_the_input_at_exact_positions(rates: tuple[float, float], delay: float) -> None:
    """Output j is the input at j * in / out - delay, to -80 dB: a shift of 1/1000 sample would show."""
    in_rate, out_rate = rates
    lower = min(rates)
    frequencies = [0.01 * lower, 0.17 * lower, 0.44 * lower]
    n = math.ceil(2500 * max(1.0, in_rate / out_rate))
    signal = tones(frequencies, in_rate, np.arange(n)).astype(np.float32)[None]
    out = resample(signal, in_rate, out_rate, Fraction(delay))[0]
    width = reach(exact_rate(in_rate), exact_rate(out_rate))
    position = np.arange(len(out)) * float(exact_rate(in_rate) / exact_rate(out_rate)) - delay
    settled = position > width
    assert settled.sum() > 50
    assert np.max(np.abs(out - tones(frequencies, in_rate, position))[settled]) < 1e-4 * len(frequencies)


@pytest.mark.parametrize("rates", RATES)
def test_samples_do_not_depend_on_the_pieces(rates: tuple[float, float]) -> None:
    n = math.ceil(1500 * max(1.0, rates[0] / rates[1]))
    signal = np.random.default_rng(0).uniform(-1, 1, (2, n)).astype(np.float32)
    whole = resample(signal, *rates, delay=Fraction(7))
    for seed in range(2):
        assert np.array_equal(resample(signal, *rates, delay=Fraction(7), seed=seed), whole)


@pytest.mark.parametrize("rates", [(48_000, 44_100), (96_000, 44_100), (48_000, 16_000), (48_000, 44_099)])
def test_what_would_alias_is_80_db_down(rates: tuple[float, float]) -> None:
    """A full-scale tone anywhere above the lower Nyquist leaves no more than -80 dB."""
    in_rate, out_rate = rates
    for frequency in np.linspace(out_rate / 2 + 1, in_rate / 2 - 1, 9):
        signal = np.sin(2 * np.pi * frequency / in_rate * np.arange(6000)).astype(np.float32)[None]
        out = resample(signal, in_rate, out_rate)[0]
        width = math.ceil(reach(exact_rate(in_rate), exact_rate(out_rate)) * out_rate / in_rate)
        assert np.max(np.abs(out[2 * width : -width])) < 1e-4


@pytest.mark.parametrize("rates", [(44_100, 48_000), (44_100, 96_000), (16_000, 48_000), (44_099, 48_000)])
def test_images_are_80_db_down(rates: tuple[float, float]) -> None:
    """The spectrum of a resampled tone has nothing above -80 dB of it beyond the lower Nyquist, window leakage aside."""
    in_rate, out_rate = rates
    for frequency in (0.11 * in_rate, 0.31 * in_rate, 0.45 * in_rate):
        signal = np.sin(2 * np.pi * frequency / in_rate * np.arange(8000)).astype(np.float32)[None]
        out = resample(signal, in_rate, out_rate)[0][500:-500].astype(np.float64)
        spectrum = np.abs(np.fft.rfft(out * np.kaiser(len(out), 14.0)))
        frequencies = np.fft.rfftfreq(len(out), 1 / out_rate)
        assert np.max(spectrum[frequencies >= in_rate / 2]) < 1e-4 * np.max(spectrum)


def test_pass_band_is_flat_to_nine_tenths_of_the_lower_nyquist() -> None:
    """Gain of the impulse response, by Fourier transform, within 0.001 dB."""
    impulse = np.zeros((1, 4096), np.float32)
    impulse[0, 2048] = 1.0
    for in_rate, out_rate in [(48_000, 96_000), (16_000, 48_000), (44_100, 88_200)]:
        gain = np.abs(np.fft.rfft(resample(impulse, in_rate, out_rate)[0].astype(np.float64))) * in_rate / out_rate
        frequencies = np.linspace(0, out_rate / 2, len(gain))
        passed = gain[frequencies <= 0.9 * in_rate / 2]
        assert np.max(np.abs(20 * np.log10(passed))) < 1e-3


def test_impulse_response_is_symmetric() -> None:
    """Linear phase: around the position of the impulse, which lies on an output sample, both sides are equal."""
    impulse = np.zeros((1, 3000), np.float32)
    impulse[0, 1470] = 1.0
    out = resample(impulse, 44_100, 48_000)[0]
    centre = 1600  # 1470 / 44100 s
    assert np.allclose(out[centre : centre + 80], out[centre : centre - 80 : -1], atol=1e-7)


def test_equal_rates_only_delay() -> None:
    signal = np.random.default_rng(0).uniform(-1, 1, (2, 500)).astype(np.float32)
    out = resample(signal, 48_000, 48_000, Fraction(37))
    assert out.shape[1] == 537
    assert not out[:, :37].any()
    assert np.array_equal(out[:, 37:], signal)


def test_equal_rates_refuse_a_fraction_of_a_sample() -> None:
    with pytest.raises(ValueError, match="whole number of samples, got 1/2"):
        Resampler(Fraction(48_000), Fraction(48_000), 1, push=1, pending=0, delay=Fraction(1, 2))


def test_reset_starts_again() -> None:
    signal = np.random.default_rng(0).uniform(-1, 1, (1, 900)).astype(np.float32)
    resampler = Resampler(Fraction(44_100), Fraction(48_000), 1, push=900, pending=0, delay=Fraction(5))
    outs = []
    for _ in range(2):
        resampler.push(signal)
        out = np.empty((1, resampler.ready), np.float32)
        resampler.pull(out)
        outs.append(out)
        resampler.reset()
    assert np.array_equal(outs[0], outs[1])


@pytest.mark.parametrize("rate", [7_999, 192_001, 0, -48_000, math.nan, math.inf, -math.inf])
def test_rates_out_of_range_are_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="sample rate must be between 8000 and 192000 Hz, got"):
        exact_rate(rate)


@pytest.mark.parametrize(
    ("in_rate", "out_rate"),
    [(44_100, 40_000), (40_000, 44_100), (48_000, 40_000), (40_000, 8_000), (11_025, 40_000), (44_101, 40_000)],
)
def test_a_whole_signal_is_resampled_in_place(in_rate, out_rate):
    """A sine stays that sine at the new rate, to the sample, away from the jumps at its ends."""
    n = np.arange(in_rate // 3 + 5)
    hz = 0.17 * min(in_rate, out_rate)
    out = resampling.resample(np.sin(2 * np.pi * hz * n / in_rate).astype(np.float32), in_rate, out_rate)
    assert len(out) == -(-len(n) * out_rate // in_rate)
    expected = np.sin(2 * np.pi * hz * np.arange(len(out)) / out_rate)
    inside = slice(len(out) // 4, 3 * len(out) // 4)
    assert np.max(np.abs(out - expected)[inside]) < 1e-4


def test_a_whole_signal_is_what_a_stream_of_it_is():
    audio = np.random.default_rng(0).standard_normal(4_000).astype(np.float32)
    stream = Resampler(Fraction(44_100), Fraction(40_000), 1, push=5_000, pending=5_000)
    stream.push(np.pad(audio, (0, 200))[None])
    streamed = np.empty((1, stream.ready), np.float32)
    stream.pull(streamed)
    whole = resampling.resample(audio, 44_100, 40_000)
    assert np.max(np.abs(whole - streamed[0, : len(whole)])) < 1e-5
    assert np.array_equal(resampling.resample(audio, 44_100, 44_100), audio)
    assert len(resampling.resample(audio[:0], 44_100, 40_000)) == 0
