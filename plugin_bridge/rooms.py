"""The same recording in a worse place: with room noise, or with a room's reverberation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NOISE_DB = 20.0  # under the recording
REVERB_S = 0.5  # until the tail has fallen by 60 dB: a furnished living room
REVERB_DB = 6.0  # how much weaker than the direct sound all of the tail is: a metre or so from the microphone
FADE_HZ = 300.0  # above it, the noise of rooms and fans falls by 6 dB an octave


def with_noise(audio: NDArray[np.float32], sample_rate: float, seed: int = 0) -> NDArray[np.float32]:
    """`audio` [channels, n] and the noise of a room, 20 dB under its power, the same in all channels."""
    length = audio.shape[1]
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(length))
    spectrum /= np.sqrt(1 + (np.fft.rfftfreq(length, 1 / sample_rate) / FADE_HZ) ** 2)
    noise = np.fft.irfft(spectrum, length)
    level = np.sqrt(np.mean(np.square(audio, dtype=np.float64)) / np.mean(noise**2)) * 10 ** (-NOISE_DB / 20)
    return np.asarray(audio + level * noise, np.float32)


def with_reverb(audio: NDArray[np.float32], sample_rate: float, seed: int = 0) -> NDArray[np.float32]:
    """`audio` [channels, n] in a room: the direct sound, and a tail of noise that dies away, as long as before."""
    length = audio.shape[1]
    t = np.arange(round(1.5 * REVERB_S * sample_rate)) / sample_rate
    tail = np.random.default_rng(seed).standard_normal(len(t)) * 10 ** (-3 * t / REVERB_S)
    tail[: round(0.005 * sample_rate)] = 0  # the nearest wall is almost a metre away
    tail *= 10 ** (-REVERB_DB / 20) / np.sqrt(np.sum(tail**2))
    tail[0] = 1.0
    size = 1 << (length + len(tail)).bit_length()
    wet = np.fft.irfft(np.fft.rfft(audio, size) * np.fft.rfft(tail, size), size)[:, :length]
    return np.asarray(wet, np.float32)
