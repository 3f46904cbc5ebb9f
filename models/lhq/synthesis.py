"""Gains and pitch to sound, without a network: a pulse train and a noise, each through a filter that changes with time.

Everything is a function of the one grid of frames that a take has, frame k centred on sample k * HOP: the pulses of the phase,
which is settled for the whole take before any slice of it is made; the noise of the number of the sample. A slice with
`FRAMES_BEFORE` and `FRAMES_AFTER` frames of context is therefore the same as that stretch of the whole.

The pulses run through minimum-phase filters, for a voice's resonances follow its pulses; the noise, whose phase nobody hears,
through filters of zero phase, twice a frame, so that plosives stay short.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dsp.filters import crossfading_hann, gain_matrix, minimum_phase_matrix
from dsp.products import product
from models.lhq.noise import frame_noise

SAMPLE_RATE = 40_000
HOP = 400
GAINS = 128  # a filter's log gains: 19 Hz apart at the bottom, 45 Hz at 1 kHz, 320 Hz at 10 kHz: formants of a soprano's vowels
FFT = 2048  # pulses of two hops and 1,248 samples = 31 ms of response
NOISE_HOP = HOP // 2
NOISE_STEPS = HOP // NOISE_HOP
NOISE_FFT = 1024  # noise of two of its hops, and 8 ms of response to each side

# From one hop before a frame's centre to where the output of its first noise filter begins.
NOISE_START = HOP - (HOP + NOISE_HOP) // 2 - (NOISE_FFT - 2 * NOISE_HOP) // 2

# Of the samples from the centre of frame m to that of m + 1, and the f0 that their pulses run on.
FRAMES_BEFORE = (FFT - HOP - 1) // HOP + 1  # the last frame whose response reaches them, and the one its first pulses come from
FRAMES_AFTER = 2  # frame m + 1 rises over them, its last pulses run towards m + 2; and so far back the noise's filters reach

HIGHEST_HARMONIC = 0.49  # of the sample rate: fades by the filters, but must not fold
NOISE_STREAM = 1  # of the song's seed; the diffusion's own noise is another
BLOCK = 128  # frames at a time: what is in the works stays in the cache, and an hour takes no more memory than a minute

Floats = NDArray[np.float32]


def phase_of(f0: ArrayLike, start: float = 0.0) -> NDArray[np.float64]:
    """Phase in cycles, 0..1, at the centre of each frame, for f0 (Hz, > 0) [T] on straight lines between the centres.

    `start` is the phase at the first of them. To go on with a longer take, give its next part with the last frame of this one in
    front, and that frame's phase as `start`.
    """
    hz = np.asarray(f0, dtype=np.float64)
    advance = np.zeros(len(hz))
    advance[1:] = 0.5 * (hz[1:] + hz[:-1]) * (HOP / SAMPLE_RATE)
    advance[:1] = start
    # Summed in whole numbers of 2^-52 cycles: such sums are exact, over an hour and in any parts.
    steps = np.rint(np.mod(advance, 1.0) * 2.0**52).astype(np.int64)
    return np.asarray((np.cumsum(steps) & ((1 << 52) - 1)) * 2.0**-52, np.float64)


def pulses(f0: ArrayLike, phase: ArrayLike) -> Floats:
    """Band-limited pulses of unit power, samples 0 .. (T - 1) * HOP - 1 from the first of T frames on.

    f0 (Hz) and phase (cycles) [T] at the frames' centres. Dirichlet's closed form of the sum of all K harmonics below the
    Nyquist frequency: sum_{k=1..K} cos(2 pi k x) = (sin((2 K + 1) pi x) / sin(pi x) - 1) / 2.
    """
    hz, cycles = np.asarray(f0, dtype=np.float64), np.asarray(phase, dtype=np.float64)
    ramp = np.arange(HOP) / HOP
    slope = (hz[1:] - hz[:-1])[:, None]
    x = cycles[:-1, None] + (HOP / SAMPLE_RATE) * (hz[:-1, None] * ramp + 0.5 * slope * ramp**2)
    harmonics = np.floor(HIGHEST_HARMONIC * SAMPLE_RATE / (hz[:-1, None] + slope * ramp))
    # Half of the turns from the nearest pulse; away from 0, where the form is 0 / 0, by what changes no digit that is heard.
    half = np.maximum(np.abs(x - np.floor(x + 0.5)), 1e-7) / 2
    # Whole turns are taken off in float64; the sines of what is left are float32's, in a tenth of the time.
    turns = (2 * harmonics + 1) * half
    upper, lower = (np.sin((2 * np.pi * angle).astype(np.float32)) for angle in (turns - np.rint(turns), half))
    return np.asarray((upper / lower - 1) / np.sqrt(2 * harmonics), np.float32).ravel()


def pulse_frames(f0: ArrayLike, phase: ArrayLike) -> Floats:
    """[T, 2 * HOP]: windowed pulses under each of T frames. Before the first and after the last frame, f0 holds."""
    hz, cycles = np.asarray(f0, dtype=np.float64), np.asarray(phase, dtype=np.float64)
    longer = np.concatenate([hz[:1], hz, hz[-1:]])
    before = cycles[:1] - hz[:1] * (HOP / SAMPLE_RATE)
    train = pulses(longer, np.concatenate([before, cycles, cycles[-1:]])).reshape(-1, HOP)
    return np.concatenate([train[:-1], train[1:]], axis=1) * crossfading_hann(HOP).astype(np.float32)


def noise_frames(first_frame: int, frames: int, seed: int) -> Floats:
    """[frames, NOISE_STEPS, 2 * NOISE_HOP]: windowed noise; a frame's steps lie evenly around its centre."""
    # Row k of the noise is the hop before the centre of frame k: the first step of frame 0 begins within row 0.
    begin = (HOP - NOISE_HOP) // 2
    noise = frame_noise(seed, NOISE_STREAM, first_frame, frames + 2, HOP).ravel()[begin:]
    noise = noise[: (frames * NOISE_STEPS + 1) * NOISE_HOP].reshape(-1, NOISE_HOP)
    windowed = np.concatenate([noise[:-1], noise[1:]], axis=1) * crossfading_hann(NOISE_HOP).astype(np.float32)
    return windowed.reshape(frames, NOISE_STEPS, 2 * NOISE_HOP)


def overlap_add(frames: Floats, hop: int) -> Floats:
    """[n, length] frames, one every `hop` samples -> [(n - 1) * hop + length, rounded up to hops] their sum."""
    count, length = frames.shape
    hops = -(-length // hop)
    padded = np.pad(frames, ((0, 0), (0, hops * hop - length))).reshape(count, hops, hop)
    total = np.zeros((count + hops - 1, hop), np.float32)
    for k in range(hops):
        total[k : k + count] += padded[:, k]
    return total.ravel()


@lru_cache(maxsize=1)
def _matrices() -> tuple[Floats, Floats]:
    pulse = minimum_phase_matrix(SAMPLE_RATE, FFT, GAINS).astype(np.float32)
    return pulse, gain_matrix(SAMPLE_RATE, NOISE_FFT, GAINS).astype(np.float32)


def synthesise(
    harmonic: Floats, noise: Floats, f0: ArrayLike, voiced: ArrayLike, first_frame: int, phase: float, *, seed: int = 0
) -> Floats:
    """The sound of T frames of a take, the first of them its frame `first_frame`.

    Parameters
    ----------
    harmonic, noise : float32 [T, GAINS], [T, NOISE_STEPS * GAINS]
        Natural-log gains of the pulses' and the noise's filters, against sources of unit power.
    f0 : [T] Hz
        Positive everywhere.
    voiced : [T]
        0 or 1: where not, no pulses.
    first_frame : int
        Sets which noise is heard.
    phase : float
        Of the pulses, in cycles, at the centre of the first frame; from `phase_of` the whole take.
    seed : int
        Of the noise.

    Returns
    -------
    float32 [T * HOP]
        Samples first_frame * HOP on. Unless the take begins and ends here, the first FRAMES_BEFORE and the last FRAMES_AFTER
        hops lack what the neighbours add to them.
    """
    count = len(harmonic)
    out = np.zeros((count + FFT // HOP + 2) * HOP, np.float32)  # from one hop before the first frame's centre
    steps = np.asarray(noise, np.float32).reshape(count, NOISE_STEPS, GAINS)
    pulse, hiss = pulse_frames(f0, phase_of(f0, phase)), noise_frames(first_frame, count, seed)
    open_ = np.asarray(voiced) > 0
    for k in range(0, count, BLOCK):
        block = slice(k, k + BLOCK)
        on = open_[block]
        sung = np.zeros((len(on), FFT), np.float32)
        sung[on] = filtered_pulses(pulse[block][on], harmonic[block][on])
        _add(out, k * HOP, overlap_add(sung, HOP))
        blown = filtered_noise(hiss[block], steps[block])
        _add(out, k * HOP + NOISE_START, overlap_add(blown, NOISE_HOP))
    return out[HOP : (count + 1) * HOP]


def _add(out: Floats, at: int, part: Floats) -> None:
    """Add `part` to `out` from sample `at` on, where there is room for it."""
    first, end = max(0, at), min(len(out), at + len(part))
    out[first:end] += part[first - at : end - at]


def filtered_pulses(frames: Floats, gains: Floats) -> Floats:
    """[n, 2 * HOP] excitation through the minimum-phase filters of log gains [n, GAINS] -> [n, FFT]."""
    log_magnitude, phase = np.split(product(gains, _matrices()[0]), 2, axis=1)
    magnitude = np.exp(log_magnitude)
    response = np.empty(phase.shape, np.complex64)
    response.real, response.imag = magnitude * np.cos(phase), magnitude * np.sin(phase)
    return np.asarray(np.fft.irfft(np.fft.rfft(frames, FFT) * response, FFT), np.float32)


def filtered_noise(frames: Floats, gains: Floats) -> Floats:
    """[n, NOISE_STEPS, 2 * NOISE_HOP] through the zero-phase filters of log gains [n, NOISE_STEPS, GAINS] -> [.., NOISE_FFT]."""
    magnitude = np.exp(product(gains.reshape(-1, GAINS), _matrices()[1]))
    blown = np.fft.irfft(np.fft.rfft(frames.reshape(-1, 2 * NOISE_HOP), NOISE_FFT) * magnitude, NOISE_FFT)
    # The responses' first halves came out at the end.
    return np.roll(np.asarray(blown, np.float32), (NOISE_FFT - 2 * NOISE_HOP) // 2, axis=1)
