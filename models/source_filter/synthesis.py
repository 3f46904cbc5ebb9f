"""Pulses and noise through minimum-phase filters: the sound side of the converter.

The excitation is a band-limited pulse train (every harmonic of f0 below the Nyquist frequency, in cosine phase) and a fixed
noise. Per hop, each is windowed (Hann, two hops long), filtered by the minimum-phase filter whose log magnitude the network
gives on mel-spaced bands, and added to its neighbours. Windows that sum to one keep a steady sound steady. A minimum-phase
filter starts with its pulse, so the filter adds no look-ahead beyond the window's second half: one hop.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dsp import filters
from models.source_filter.features import HOP, SAMPLE_RATE

FFT = 1024  # excitation of two hops and 512 samples of impulse response: 10.7 ms hold a formant 60 Hz wide down to -17 dB
BINS = FFT // 2 + 1
GAINS = 96  # mel-spaced log gains a filter; a speaker's formants need about 80 up to 24 kHz
# Nobody hears what lies below, but loudspeakers move to it. Recordings hold such rumble, and networks learn it: pjs gave -45 dBFS,
# 28 dB under his voice. A cut at 60 Hz takes more of it, and .03 of his speaker cosine: the rumble is his room's.
SUBSONIC_HZ = 20.0
NOISE_FRAMES = (127, 131)  # two noises of coprime length: their sum repeats after 16,637 hops = 89 s


def gain_centres_hz() -> NDArray[np.float64]:
    """[GAINS] centre frequencies of the log gains, 0 Hz to the Nyquist frequency, equal steps in mel."""
    return filters.gain_centres_hz(SAMPLE_RATE, GAINS)


def minimum_phase_matrix() -> NDArray[np.float64]:
    """[GAINS, 2 * BINS]: log gains -> (log magnitude, phase in radians) of the minimum-phase filter."""
    return filters.minimum_phase_matrix(SAMPLE_RATE, FFT, GAINS)


def hann() -> NDArray[np.float64]:
    """[2 * HOP], periodic: two of them one hop apart sum to one at every sample."""
    return filters.crossfading_hann(HOP)


def noise_spectra() -> NDArray[np.float32]:
    """[sum(NOISE_FRAMES), 2 * BINS] (real parts, then imaginary parts) of windowed stretches of two looped noises.

    White, less what lies under SUBSONIC_HZ: a Butterworth filter of the fourth order, without its phase.
    """
    rng = np.random.default_rng(2311_00873)
    rows = []
    for frames in NOISE_FRAMES:
        noise = rng.standard_normal(frames * HOP) / math.sqrt(len(NOISE_FRAMES))
        fourth = (np.fft.rfftfreq(len(noise), 1 / SAMPLE_RATE) / SUBSONIC_HZ) ** 4
        noise = np.fft.irfft(np.fft.rfft(noise) * fourth / np.sqrt(1 + fourth**2), len(noise))  # round the loop
        looped = np.concatenate([noise, noise[:HOP]])
        stretches = np.stack([looped[k * HOP : (k + 2) * HOP] for k in range(frames)]) * hann()
        spectrum = np.fft.rfft(stretches, FFT, axis=1)
        rows.append(np.concatenate([spectrum.real, spectrum.imag], axis=1))
    return np.concatenate(rows).astype(np.float32)


def voicing_gain(voicing: Tensor) -> Tensor:
    """Voicing 0..1 -> natural-log gain of the pulses, its square: none where voiced, -12 dB at 0.5, -40 dB where not.

    Left to the network alone, faint pulses stay under every consonant and pause, and breath turns into a hum. With voicing
    itself in place of its square, the conversion was voiced in 5.8 % of frames where SwiftF0 hears none in the source, with
    it in 2.8 %, and the agreement rose from 0.925 to 0.947 (nine clips, kerstin).
    """
    return 2 * torch.log(torch.clamp(voicing, min=0.1))


def harmonics_below_nyquist(f0: Tensor) -> Tensor:
    """How many harmonics of f0 (Hz) stay below 0.49 of the sample rate."""
    return torch.floor(0.49 * SAMPLE_RATE / f0)


def pulse_train(phase: Tensor, harmonics: Tensor) -> Tensor:
    """Band-limited pulses of unit power: phase in cycles and number of harmonics K, of shapes that broadcast -> samples.

    Dirichlet's closed form: sum_{k=1..K} cos(2 pi k x) = (sin((2 K + 1) pi x) / sin(pi x) - 1) / 2.
    """
    # In [0, pi/2]: small arguments keep float32 exact, and the form is even. Away from 0 by what changes K by less than 1e-5.
    half = torch.clamp(torch.abs(math.pi * (phase - torch.round(phase))), min=1e-5)
    ratio = torch.sin((2 * harmonics + 1) * half) / torch.sin(half)
    return (ratio - 1) * torch.rsqrt(2 * harmonics)


class Filter(nn.Module):
    """Filters windowed excitation frames: (pulse, noise) spectra and log gains -> [..., FFT] samples of output tail."""

    def __init__(self) -> None:
        super().__init__()
        self.minimum_phase: Tensor
        self.noise: Tensor
        self.window: Tensor
        self.register_buffer(
            "minimum_phase", torch.tensor(minimum_phase_matrix(), dtype=torch.float32), persistent=False
        )
        self.register_buffer("noise", torch.tensor(noise_spectra()), persistent=False)
        self.register_buffer("window", torch.tensor(hann(), dtype=torch.float32), persistent=False)

    def response(self, gains: Tensor) -> Tensor:
        """Log gains [..., GAINS] -> the minimum-phase frequency response [..., 2, BINS] (real, imaginary)."""
        log_magnitude, phase = torch.split(gains @ self.minimum_phase, BINS, dim=-1)
        magnitude = torch.exp(log_magnitude)
        return torch.stack([magnitude * torch.cos(phase), magnitude * torch.sin(phase)], -2)

    def noise_spectrum(self, hop: Tensor) -> Tensor:
        """Spectrum [..., 2, BINS] (real, imaginary) of the noise under the frames of the hops with these numbers, int64 [...]."""
        first, second = NOISE_FRAMES
        rows = self.noise[hop % first] + self.noise[first + hop % second]
        return torch.stack(torch.split(rows, BINS, dim=-1), -2)

    def forward(self, pulses: Tensor, hop: Tensor, harmonic: Tensor, noise: Tensor) -> Tensor:
        """All frames of a clip at once, for training.

        pulses [batch, frames, 2 * HOP] excitation under each frame, hop int64 [batch, frames], harmonic and noise log gains
        [batch, frames, GAINS] -> audio [batch, (frames - 1) * HOP]; frame k is centred on sample k * HOP of it.
        """
        pulse = torch.fft.rfft(pulses * self.window, FFT)

        def as_complex(x: Tensor) -> Tensor:
            return torch.complex(x[..., 0, :], x[..., 1, :])

        spectrum = pulse * as_complex(self.response(harmonic))
        spectrum = spectrum + as_complex(self.noise_spectrum(hop)) * as_complex(self.response(noise))
        frames = torch.fft.irfft(spectrum, FFT)
        batch, count, _ = frames.shape
        padded = (count - 1) * HOP + FFT
        audio = nn.functional.fold(
            frames.transpose(1, 2), output_size=(1, padded), kernel_size=(1, FFT), stride=(1, HOP)
        ).reshape(batch, padded)
        return audio[:, HOP : HOP + (count - 1) * HOP]


def warp_gains(gains: Tensor, ratio: Tensor) -> Tensor:
    """Move the envelope's frequency axis: gains [rows, GAINS], ratio [1] -> the envelope with every formant times `ratio`.

    Linear interpolation on the mel grid. Above the old Nyquist frequency the last gain holds.
    """
    centres = torch.tensor(gain_centres_hz() / 700.0, dtype=torch.float32)
    position = (GAINS - 1) / math.log(1.0 + SAMPLE_RATE / 2 / 700.0) * torch.log(1.0 + centres / ratio)
    position = torch.clamp(position, max=GAINS - 1.001)
    lower = torch.floor(position)
    index, columns = lower.long(), gains.t()  # whole rows are picked faster than single numbers
    low, high = columns[index].t(), columns[index + 1].t()
    return low + (position - lower) * (high - low)
