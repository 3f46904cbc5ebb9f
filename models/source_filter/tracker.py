"""Causal pitch tracker: a small network that runs inside the converter's own streaming graph.

Signal path, for each hop of 256 samples at 48 kHz: decimation to 12 kHz, two spectra that lean on the newest samples (a
long one that separates the harmonics of low voices, a short one that is quick), a learned map onto a logarithmic pitch
axis, a convolutional network along pitch and a little of the past, the peak within reach of the voice's recent range
with its centre of mass, and a voicing decision. Plain matrix products instead of an FFT, so that it exports to any ONNX
runtime; all memory is explicit state, zero at the start.
"""

import importlib.resources
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.replacing import replacing
from models.source_filter.features import HOP, SAMPLE_RATE
from models.source_filter.weights import UNREADABLE

# What is ready after n samples is the pitch at n - TARGET_DELAY: the centre of the converter's synthesis frame.
TARGET_DELAY = 256

# 12 kHz keeps three harmonics of the highest pitch, at a quarter of the arithmetic.
DECIMATION = 4
# Flat to 4 kHz, 60 dB down where it would fold back below that, and only half a millisecond late.
DECIMATION_TAPS = 48
ANALYSIS_RATE = SAMPLE_RATE // DECIMATION
ANALYSIS_HOP = HOP // DECIMATION

# Three bins a semitone: the centre of mass of a peak resolves far below a bin, and fewer bins cost less.
BINS_PER_OCTAVE = 36
PITCH_BINS = 160
LOWEST_PITCH_HZ = 55.0
# What the tracker says before it has heard any voice.
START_PITCH_HZ = 150.0
# Half-width, in bins, of the neighbourhood of the peak whose centre of mass is the pitch.
PEAK_BINS = 4
# Below this probability of voicing the last pitch is held.
HOLD_BELOW = 0.5
# A voice stays within reach of where it has just been: candidates near the voiced past (fading to nothing at six semitones),
# remembered for about half a second of voice, win over a stray formant or overtone ...
RANGE_MEMORY_HOPS = 100
RANGE_BINS = (8, 18)
# ... and everywhere else a candidate needs up to sixty times the salience: what is clearly heard has it, as any voice may leap.
# Against half an octave, ten semitones and a floor of 0.2: octave errors on the synthetic singer at 60-90 Hz 0.54 -> 0.47 %
# (a minute), at 90-180 Hz 0.19 -> 0.14, at onsets below 90 Hz right 1 ms sooner; on 18 real takes 0.65 -> 0.55.
RANGE_FLOOR = 0.1

# (samples at 12 kHz, of which at the end the window falls, spectrum spacing in Hz, first and last frequency).
# 53 ms are three periods of 60 Hz; a longer fall would lag behind glides, a shorter one smears harmonics.
LONG = (640, 120, 15.625, 46.875, 1109.375)
SHORT = (256, 64, 31.25, 93.75, 3187.5)
# Mean band power below which (about -90 dB full scale) a frame fades to silence instead of being normalised.
SILENCE_POWER = 1e-10

MAP_CHANNELS = 4
CHANNELS = 16
VOICING_CHANNELS = 8
VOICING_FRAMES = 8
WEIGHTS_FILE = "tracker.npz"


def pitch_axis() -> NDArray[np.float64]:
    """Frequencies in Hz of the pitch bins, [PITCH_BINS]."""
    return LOWEST_PITCH_HZ * 2.0 ** (np.arange(PITCH_BINS) / BINS_PER_OCTAVE)


def _decimation_filter() -> Tensor:
    n = np.arange(DECIMATION_TAPS) - (DECIMATION_TAPS - 1) / 2
    taps = np.sinc(n / DECIMATION) * np.kaiser(DECIMATION_TAPS, 5.65)
    return torch.tensor(taps / taps.sum(), dtype=torch.float32)


def _spectrum_table(window: tuple[int, int, float, float, float]) -> tuple[Tensor, NDArray[np.float64]]:
    """Windowed cosines and sines [samples, 2 * frequencies] that give a full-scale sine power 1; the frequencies."""
    length, fall, spacing, first, last = window
    rise = length - fall
    shape = np.concatenate(
        [
            np.sin(0.5 * np.pi * (np.arange(rise) + 0.5) / rise) ** 2,
            np.cos(0.5 * np.pi * (np.arange(fall) + 0.5) / fall) ** 2,
        ]
    )
    frequencies = np.arange(first, last + spacing / 2, spacing)
    phase = 2 * np.pi * np.outer(np.arange(length) - rise, frequencies) / ANALYSIS_RATE
    table = np.concatenate([np.cos(phase), np.sin(phase)], axis=1) * (2 * shape / shape.sum())[:, None]
    return torch.tensor(table, dtype=torch.float32), frequencies


def _comb(frequencies: NDArray[np.float64], harmonics: int) -> NDArray[np.float64]:
    """Frequencies by pitches: positive on the harmonics, negative between them (after SWIPE, Camacho 2007)."""
    ratio = frequencies[:, None] / pitch_axis()[None, :]
    inside = (ratio > 0.5) & (ratio < harmonics + 0.5)
    kernel = np.where(inside, np.cos(2 * np.pi * ratio) / np.sqrt(np.maximum(ratio, 0.5)), 0.0)
    for sign in (1, -1):
        part = np.maximum(sign * kernel, 0)
        kernel = np.where(part > 0, sign * part / np.maximum(part.sum(0), 1e-9), kernel)
    return kernel


def _at(frequencies: NDArray[np.float64], pitch: NDArray[np.float64]) -> NDArray[np.float64]:
    """Frequencies by pitches: linear interpolation of the spectrum at the pitch, nothing outside its range."""
    spacing = frequencies[1] - frequencies[0]
    return np.asarray(np.maximum(0.0, 1.0 - np.abs(frequencies[:, None] - pitch[None, :]) / spacing))


def _first_map(long: NDArray[np.float64], short: NDArray[np.float64]) -> Tensor:
    """Where training starts, [frequencies, MAP_CHANNELS * PITCH_BINS]: combs of both spectra, fundamental, octave."""
    axis = pitch_axis()
    no_long, no_short = np.zeros((len(long), PITCH_BINS)), np.zeros((len(short), PITCH_BINS))
    channels = [
        np.concatenate([_comb(long, 10), no_short]),
        np.concatenate([no_long, _comb(short, 10)]),
        np.concatenate([_at(long, axis), no_short]),
        np.concatenate([no_long, _at(short, 2 * axis)]),
    ]
    return torch.tensor(np.concatenate(channels, axis=1), dtype=torch.float32)


def _range_table() -> Tensor:
    """What each bin of the voiced past, summed with forgetting, says for each candidate, [PITCH_BINS, PITCH_BINS]."""
    inner, outer = RANGE_BINS
    bins = np.arange(PITCH_BINS)
    reach = np.clip((outer - np.abs(bins[:, None] - bins)) / (outer - inner), 0, 1)
    return torch.tensor(reach / reach.sum(axis=1, keepdims=True) / RANGE_MEMORY_HOPS, dtype=torch.float32)


class PitchTracker(nn.Module):
    """Pitch and voicing of each hop of 256 samples at 48 kHz, causally.

    Batches and any whole number of hops a call; the same samples give the same answers however they are cut into calls.
    """

    state_names = ("input", "signal", "shape", "context", "voicing", "range", "pitch")

    def __init__(self) -> None:
        super().__init__()
        long_table, long = _spectrum_table(LONG)
        short_table, short = _spectrum_table(SHORT)
        self.register_buffer("decimator", _decimation_filter()[None, None], persistent=False)
        self.register_buffer("long_table", long_table, persistent=False)
        self.register_buffer("short_table", short_table, persistent=False)
        bins = torch.arange(PITCH_BINS)
        near = torch.abs(bins[:, None] - bins) <= PEAK_BINS
        self.register_buffer("range_table", _range_table(), persistent=False)
        self.register_buffer("near", near.to(torch.float32), persistent=False)
        pitch = torch.tensor(np.log(pitch_axis() / START_PITCH_HZ), dtype=torch.float32)
        self.register_buffer("moments", torch.stack([torch.ones(PITCH_BINS), pitch], dim=1), persistent=False)
        self.map = nn.Parameter(_first_map(long, short))
        self.shape = nn.Conv2d(MAP_CHANNELS, CHANNELS, (1, 7), padding=(0, 3))
        # Three taps an octave apart let a candidate see its rivals an octave above and below.
        octave = (1, BINS_PER_OCTAVE)
        self.octaves = nn.Conv2d(CHANNELS, CHANNELS, (1, 3), padding=(0, BINS_PER_OCTAVE), dilation=octave)
        self.recent = nn.Conv2d(CHANNELS, CHANNELS, (3, 5), padding=(0, 2))
        self.context = nn.Conv2d(CHANNELS, CHANNELS, (3, 3), padding=(0, 1), dilation=(3, 1))
        # The first channel is the salience of each pitch; the strongest value of every channel speaks for voicing.
        self.evidence = nn.Conv2d(CHANNELS, VOICING_CHANNELS, (1, 5), padding=(0, 2))
        self.voicing = nn.Conv1d(VOICING_CHANNELS + 1, 16, VOICING_FRAMES)
        self.decision = nn.Conv1d(16, 1, 1)

    def initial_state(self, batch: int = 1) -> tuple[Tensor, ...]:
        """Zero state, in the order of `state_names`."""
        shapes = (
            (batch, DECIMATION_TAPS - DECIMATION),
            (batch, LONG[0] - ANALYSIS_HOP),
            (batch, CHANNELS, 2, PITCH_BINS),
            (batch, CHANNELS, 6, PITCH_BINS),
            (batch, VOICING_CHANNELS + 1, VOICING_FRAMES - 1),
            (batch, PITCH_BINS),
            (batch, 1),
        )
        return tuple(torch.zeros(shape) for shape in shapes)

    def forward(self, audio: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Follow `audio` [batch, hops * 256] at 48 kHz from `state`.

        Returns f0 in Hz [batch, hops] (positive everywhere: held through unvoiced), the probability of voicing
        [batch, hops], and the next state. Entry i belongs to the time 256 * i samples after the first of `audio`.
        """
        heard = torch.cat([state[0], audio], dim=1)
        signal = functional.conv1d(heard[:, None], self.get_buffer("decimator"), stride=DECIMATION)[:, 0]
        signal = torch.cat([state[1], signal], dim=1)
        logits, voicing_logits, memory = self.analyse(signal, state[2:5])
        voicing = torch.sigmoid(voicing_logits)
        pitch, reach = self.decode(torch.softmax(logits, dim=2), voicing, state[5])
        voiced, held, track = voicing > HOLD_BELOW, state[6], []
        for hop in range(pitch.shape[1]):
            held = torch.where(voiced[:, hop : hop + 1], pitch[:, hop : hop + 1], held)
            track.append(held)
        f0 = START_PITCH_HZ * torch.exp(torch.cat(track, dim=1))
        history = (heard[:, -(DECIMATION_TAPS - DECIMATION) :], signal[:, -(LONG[0] - ANALYSIS_HOP) :])
        return f0, voicing, (*history, *memory, reach, held)

    def analyse(self, signal: Tensor, memory: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Salience logits [batch, hops, PITCH_BINS] and voicing logits [batch, hops] of `signal` at 12 kHz.

        `signal` [batch, 576 + 64 * hops] begins with the samples before the first hop; `memory` is the state from
        "shape" to "voicing".
        """
        hops = (signal.shape[1] - LONG[0]) // ANALYSIS_HOP + 1
        frames = torch.stack([signal[:, i * ANALYSIS_HOP : i * ANALYSIS_HOP + LONG[0]] for i in range(hops)], dim=1)
        long = _power(frames, self.get_buffer("long_table"))
        short = _power(frames[..., -SHORT[0] :], self.get_buffer("short_table"))
        power = torch.cat([long, short], dim=2)
        level = power.mean(dim=2, keepdim=True) + SILENCE_POWER
        # The fourth root of power lets weak harmonics count without lifting the noise floor as a logarithm does.
        spectrum = torch.sqrt(torch.sqrt(power / level))
        loudness = 0.1 * torch.log(level).transpose(1, 2) + 1.0

        mapped = torch.matmul(spectrum, self.map).reshape(-1, hops, MAP_CHANNELS, PITCH_BINS).transpose(1, 2)
        shape = functional.relu(self.shape(mapped))
        shape = torch.cat([memory[0], functional.relu(shape + self.octaves(shape))], dim=2)
        newest = functional.relu(self.recent(shape))
        recent = torch.cat([memory[1], newest], dim=2)
        context = functional.relu(newest + self.context(recent))
        evidence = self.evidence(context)
        salience = evidence[:, 0]
        strongest = torch.cat([memory[2], torch.cat([evidence.amax(dim=3), loudness], dim=1)], dim=2)
        voicing = self.decision(functional.relu(self.voicing(strongest)))[:, 0]
        return salience, voicing, (shape[:, :, -2:], recent[:, :, -6:], strongest[:, :, -(VOICING_FRAMES - 1) :])

    def decode(self, salience: Tensor, voicing: Tensor, reach: Tensor) -> tuple[Tensor, Tensor]:
        """Log of the pitch over START_PITCH_HZ, [batch, hops]: the centre of mass around the most likely peak.

        `salience` [batch, hops, PITCH_BINS] are probabilities, `reach` [batch, PITCH_BINS] is the sum of the voiced
        past, which comes back with these hops in it.
        """
        # The reach before each hop, and after the last: one triangular product instead of hop after hop.
        hop = torch.arange(salience.shape[1] + 1)
        weights = torch.tril((1 - 1 / RANGE_MEMORY_HOPS) ** (hop[:, None] - hop))
        reached = torch.matmul(weights.to(salience), torch.cat([reach[:, None], salience * voicing[..., None]], dim=1))
        before, reach = reached[:, :-1], reached[:, -1]
        prior = torch.matmul(before, self.get_buffer("range_table")) + RANGE_FLOOR / PITCH_BINS
        near = self.get_buffer("near")[torch.argmax(salience * prior, dim=2)]
        # The little that is added keeps the quotient defined where the peak itself has no mass left.
        mass = torch.matmul((salience + 1e-9) * near, self.get_buffer("moments"))
        return (mass[..., 1:] / mass[..., :1]).squeeze(2), reach


def _power(frames: Tensor, table: Tensor) -> Tensor:
    """Power spectrum [batch, hops, frequencies] of `frames` [batch, hops, samples]."""
    squares = torch.square(torch.matmul(frames, table))
    half = table.shape[1] // 2
    return squares[..., :half] + squares[..., half:]


def save_tracker(tracker: PitchTracker, path: Path) -> None:
    """Write the weights as half precision arrays (`.npz`), beside first and then renamed."""
    arrays = {name: value.detach().numpy().astype(np.float16) for name, value in tracker.state_dict().items()}
    with replacing(path) as file:
        np.savez(file, **arrays)


def load_tracker(path: Path | None = None) -> PitchTracker:
    """The trained tracker, ready to run: from `path`, or the weights that come with the package.

    Raises ValueError if the file is not a tracker of this layout.
    """
    tracker = PitchTracker()
    source = path if path is not None else Path(str(importlib.resources.files(__package__) / WEIGHTS_FILE))
    try:
        with np.load(source, allow_pickle=False) as arrays:
            weights = {name: torch.from_numpy(arrays[name].astype(np.float32)) for name in arrays.files}
    except UNREADABLE as error:
        problem = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"expected the weights of a pitch tracker in {source}, but they cannot be read ({problem})") from None
    expected = {name: value.shape for name, value in tracker.state_dict().items()}
    if {name: value.shape for name, value in weights.items()} != expected:
        raise ValueError(f"{source.name} does not hold the weights of this pitch tracker: names or shapes differ")
    tracker.load_state_dict(weights)
    return tracker.eval()


def track(
    x: NDArray[np.float32], sample_rate: float, tracker: PitchTracker | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Times in seconds, f0 in Hz and probability of voicing of mono audio [n], as the stream would hear it.

    The last TARGET_DELAY samples are tracked against silence. Needs soxr where the rate is not 48 kHz.
    """
    if x.ndim != 1:
        raise ValueError(f"track takes mono audio [n], not an array of shape {x.shape}")
    if sample_rate != SAMPLE_RATE:
        import soxr

        x = soxr.resample(x, sample_rate, SAMPLE_RATE)
    tracker = load_tracker() if tracker is None else tracker
    hops = -(-(len(x) + TARGET_DELAY) // HOP)
    audio = torch.zeros(1, hops * HOP)
    audio[0, : len(x)] = torch.from_numpy(np.asarray(x, dtype=np.float32))
    state, parts = tracker.initial_state(), []
    with torch.no_grad():
        # Long calls cost the least a hop; the answers do not depend on how the audio is cut.
        for piece in audio.split(HOP * 256, dim=1):
            f0, voicing, state = tracker(piece, state)
            parts.append(torch.cat([f0, voicing]).numpy())
    f0_hz, probability = np.concatenate(parts, axis=1).astype(np.float64)
    return (np.arange(hops) * HOP + HOP - TARGET_DELAY) / SAMPLE_RATE, f0_hz, probability
