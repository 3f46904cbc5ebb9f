"""A synthetic singer whose f0 is known exactly, at every sample: for demonstration, tests and training.

A glottal pulse (KLGLOTT88, [1]) read from band-limited tables at the phase that the f0 curve integrates to, and noise,
pass a vocal tract of moving formants ([2], the cascade branch) with one pair of zeros for nasals; fricatives and bursts
are shaped noise beside it. Some fifty times faster than real time on one core.

[1] D. H. Klatt, L. C. Klatt, "Analysis, synthesis, and perception of voice quality variations among female and male
    talkers", JASA 87 (1990).
[2] D. H. Klatt, "Software for a cascade/parallel formant synthesizer", JASA 67 (1980). Vowel formants after
    G. E. Peterson, H. L. Barney, JASA 24 (1952), with F3 and F4 drawn together as trained singers do (J. Sundberg,
    "The Science of the Singing Voice", 1987).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]

# Articulation is far slower than audio: control curves are made at this rate and interpolated.
CONTROL_RATE = 1000

# Hz: F1 to F5 of a man. `tract` scales them all.
VOWELS: dict[str, tuple[float, float, float, float, float]] = {
    "a": (700.0, 1150.0, 2550.0, 3000.0, 3850.0),
    "e": (470.0, 1850.0, 2500.0, 3100.0, 3950.0),
    "i": (300.0, 2200.0, 2850.0, 3300.0, 4000.0),
    "o": (460.0, 820.0, 2500.0, 2950.0, 3750.0),
    "u": (330.0, 720.0, 2350.0, 2900.0, 3700.0),
}
_VOWEL_BANDWIDTHS = (85.0, 95.0, 130.0, 160.0, 220.0)
_CLOSED_BANDWIDTHS = (110.0, 220.0, 280.0, 320.0, 400.0)

# Noise made at a constriction: centre in Hz and width in octaves of its bell on a logarithmic axis.
_NOISES: dict[str, tuple[float, float]] = {
    "s": (6800.0, 0.45),
    "sh": (3300.0, 0.50),
    "f": (5000.0, 1.40),
    "t": (4700.0, 0.70),
    "k": (1900.0, 0.40),
    "p": (900.0, 0.90),
}


@dataclass(frozen=True)
class _Segment:
    """A stretch of a consonant. Without `formants` the tract is already that of the vowel to come."""

    seconds: float
    voicing: float = 0.0
    aspiration: float = 0.0
    frication: float = 0.0
    noise: str = "s"
    formants: tuple[float, float, float, float, float] | None = None
    nasal_zero_hz: float = 0.0


_BAR = (200.0, 1000.0, 2300.0, 3000.0, 3600.0)
_LABIAL = (250.0, 1000.0, 2200.0, 2900.0, 3500.0)
_ALVEOLAR = (260.0, 1500.0, 2500.0, 3000.0, 3600.0)

_CONSONANTS: dict[str, tuple[_Segment, ...]] = {
    "": (),
    "h": (_Segment(0.090, aspiration=0.35),),
    "s": (_Segment(0.120, frication=0.60, noise="s"),),
    "sh": (_Segment(0.120, frication=0.70, noise="sh"),),
    "f": (_Segment(0.100, frication=0.20, noise="f"),),
    "z": (_Segment(0.090, voicing=0.30, frication=0.24, noise="s", formants=_ALVEOLAR),),
    "v": (_Segment(0.080, voicing=0.40, frication=0.08, noise="f", formants=_LABIAL),),
    "p": (_Segment(0.060), _Segment(0.010, frication=0.60, noise="p"), _Segment(0.030, aspiration=0.30)),
    "t": (_Segment(0.055), _Segment(0.012, frication=0.80, noise="t"), _Segment(0.030, aspiration=0.30)),
    "k": (_Segment(0.055), _Segment(0.018, frication=0.80, noise="k"), _Segment(0.035, aspiration=0.30)),
    "b": (_Segment(0.055, voicing=0.15, formants=_BAR), _Segment(0.008, voicing=0.2, frication=0.30, noise="p")),
    "d": (_Segment(0.050, voicing=0.15, formants=_BAR), _Segment(0.008, voicing=0.2, frication=0.40, noise="t")),
    "g": (_Segment(0.055, voicing=0.15, formants=_BAR), _Segment(0.012, voicing=0.2, frication=0.40, noise="k")),
    "m": (_Segment(0.090, voicing=0.45, formants=_LABIAL, nasal_zero_hz=1000.0),),
    "n": (_Segment(0.080, voicing=0.45, formants=_ALVEOLAR, nasal_zero_hz=1600.0),),
    "l": (_Segment(0.075, voicing=0.55, formants=(360.0, 1250.0, 2700.0, 3200.0, 3700.0)),),
    "r": (_Segment(0.060, voicing=0.45, formants=(380.0, 1200.0, 1650.0, 2800.0, 3500.0)),),
    "w": (_Segment(0.080, voicing=0.60, formants=(290.0, 620.0, 2200.0, 2850.0, 3350.0)),),
    "y": (_Segment(0.080, voicing=0.60, formants=(270.0, 2200.0, 2950.0, 3300.0, 3750.0)),),
}
CONSONANTS = tuple(_CONSONANTS)


@dataclass(frozen=True)
class Note:
    """A sung note, or a rest.

    `midi` is the pitch (60 is middle C, fractions allowed), `seconds` from the start of this note's vowel to that of
    the next, `vowel` one of `VOWELS` or "" for a rest, `consonant` one of `CONSONANTS`, sung before the vowel at the
    cost of what comes before.
    """

    midi: float
    seconds: float
    vowel: str = "a"
    consonant: str = ""


@dataclass(frozen=True)
class Song:
    """What was sung: `audio` float32 [n] within -1..1, `f0_hz` float64 [n], 0 where unvoiced, `voiced` bool [n].

    The phase of the voice advances by exactly `f0_hz[i] / sample_rate` cycles from sample i to i + 1.
    """

    audio: NDArray[np.float32]
    f0_hz: Array
    voiced: NDArray[np.bool_]
    sample_rate: int


def sing(
    notes: Sequence[Note],
    sample_rate: int = 48_000,
    *,
    vibrato_hz: float = 5.5,
    vibrato_cents: float = 50.0,
    vibrato_delay: float = 0.25,
    portamento: float = 0.110,
    breathiness: float = 0.15,
    creak: float = 0.0,
    tract: float = 1.0,
    seed: int = 0,
) -> Song:
    """Sing a phrase.

    Parameters
    ----------
    notes : sequence of Note
        The phrase; its length is the sum of their seconds.
    sample_rate : int
        8000 to 192000 Hz.
    vibrato_hz, vibrato_cents, vibrato_delay : float
        Rate, peak deviation (0: none), and seconds from a note's start until it sets in.
    portamento : float
        Seconds that the way from one note to the next takes, half of them before its vowel.
    breathiness : float
        0 (pressed) to 1 (whispery): noise in the voice, and a softer pulse.
    creak : float
        0 to 1: how much weaker every other cycle is, as in a creaking voice. `f0_hz` stays that of the cycles.
    tract : float
        0.7 to 1.6: formant frequencies relative to a man's; about 1.17 is a woman, 1.3 a child.
    seed : int
        Decides all that is random: the same arguments give the same samples.

    Returns
    -------
    Song

    Raises
    ------
    ValueError
        Naming the argument that is out of range.
    """
    _check(notes, sample_rate, vibrato_hz, vibrato_cents, vibrato_delay, portamento, breathiness, creak, tract)
    random = np.random.default_rng(seed)
    ends = np.cumsum([note.seconds for note in notes])
    length = round(float(ends[-1]) * sample_rate)

    score = _articulate(notes, ends, random)
    f0_control = _f0_curve(notes, ends, score, vibrato_hz, vibrato_cents, vibrato_delay, portamento, random)
    at = np.arange(length) * (CONTROL_RATE / sample_rate)
    f0 = _at(f0_control, at)
    # Below this the voice is inaudible beside any noise; the ramp is shifted so that it reaches zero there.
    threshold = 0.02
    voicing = np.maximum(_at(score.voicing, at) - threshold, 0.0)
    voiced = voicing > 0.0

    phase = np.concatenate([[0.0], np.cumsum(f0[:-1] / sample_rate)])
    pulse, opening = _glottis(phase, f0_control, at, sample_rate, breathiness)
    noise = random.standard_normal(length, dtype=np.float32)
    # Air streams through the open glottis: the breath pulses with the voice.
    breath = breathiness * 0.5 * voicing * opening + _at(score.aspiration, at)
    cycles = _shimmer(phase, random) * (1.0 - creak * (np.floor(phase) % 2))
    excitation = (pulse * cycles * voicing + noise * breath).astype(np.float32)
    friction = (noise * _at(score.frication, at)).astype(np.float32)

    audio = _vocal_tract(excitation, friction, score, f0_control, sample_rate, breathiness, tract)
    peak = float(np.max(np.abs(audio), initial=0.0))
    if peak > 0.0:
        audio *= 0.7 / peak
    return Song(audio, np.where(voiced, f0, 0.0), voiced, sample_rate)


@dataclass
class _Score:
    """Control curves, [steps] or [steps, 5], at `CONTROL_RATE`."""

    voicing: Array
    aspiration: Array
    frication: Array
    formants: Array
    bandwidths: Array
    nasality: Array
    nasal_zero_hz: Array
    noise: NDArray[np.int64]


def _articulate(notes: Sequence[Note], ends: Array, random: np.random.Generator) -> _Score:
    steps = math.ceil(float(ends[-1]) * CONTROL_RATE) + 1
    starts = np.concatenate([[0.0], ends[:-1]])
    score = _Score(
        voicing=np.zeros(steps),
        aspiration=np.zeros(steps),
        frication=np.zeros(steps),
        formants=np.zeros((steps, 5)),
        bandwidths=np.tile(np.array(_VOWEL_BANDWIDTHS), (steps, 1)),
        nasality=np.zeros(steps),
        nasal_zero_hz=np.full(steps, 1000.0),
        noise=np.zeros(steps, np.int64),
    )
    vowels = [note.vowel for note in notes]
    for index, (note, start, end) in enumerate(zip(notes, starts, ends, strict=True)):
        here = slice(round(start * CONTROL_RATE), steps if index == len(notes) - 1 else round(end * CONTROL_RATE))
        # In a rest the mouth already shapes the vowel to come.
        vowel = note.vowel or next((coming for coming in vowels[index:] if coming), "e")
        score.formants[here] = VOWELS[vowel]
        count = here.stop - here.start
        if note.vowel:
            swell = 1.0 + 0.15 * np.sin(np.pi * np.linspace(0.0, 1.0, count)) + 0.05 * random.standard_normal()
            # Sung high, a voice is louder.
            score.voicing[here] = 0.75 * swell * 2.0 ** ((note.midi - 57.0) / 48.0)
        elif count > 400 and index + 1 < len(notes):
            breath = slice(here.stop - 330, here.stop - 130)
            score.aspiration[breath] = 0.05 * np.hanning(200)
    for index, (note, start) in enumerate(zip(notes, starts, strict=True)):
        _pronounce(score, note, start, notes[index - 1] if index else None)

    # Jaw, lips and tongue take some 50 ms from one position to the next, the glottis and a release less.
    score.formants = _smooth(score.formants, 0.060)
    score.bandwidths = _smooth(score.bandwidths, 0.060)
    score.nasality = _smooth(score.nasality, 0.030)
    score.nasal_zero_hz = _smooth(score.nasal_zero_hz, 0.060)
    score.voicing = _smooth(_with_onsets(score.voicing), 0.025)
    score.aspiration = _smooth(score.aspiration, 0.015)
    score.frication = _smooth(score.frication, 0.008)
    return score


def _pronounce(score: _Score, note: Note, start: float, before: Note | None) -> None:
    """Write a note's consonant over what comes before its vowel (over the vowel's start, in the first note)."""
    segments = _CONSONANTS[note.consonant]
    wanted = sum(segment.seconds for segment in segments)
    room = min(wanted, 0.5 * (before.seconds if before else note.seconds))
    position = start - room if before else 0.0
    for segment in segments:
        stop = position + segment.seconds * room / wanted
        here = slice(round(position * CONTROL_RATE), round(stop * CONTROL_RATE))
        position = stop
        score.voicing[here] = segment.voicing
        score.aspiration[here] = segment.aspiration
        score.frication[here] = segment.frication
        score.noise[here] = list(_NOISES).index(segment.noise)
        score.formants[here] = segment.formants or VOWELS[note.vowel]
        if segment.formants:
            score.bandwidths[here] = _CLOSED_BANDWIDTHS
        if segment.nasal_zero_hz:
            score.nasality[here] = 1.0
            score.nasal_zero_hz[here] = segment.nasal_zero_hz
    # The bell-shaped smoothing of the noise gain reaches past the segment; so must its colour.
    last = round(start * CONTROL_RATE) if before else round(room * CONTROL_RATE)
    if segments:
        score.noise[last : last + 10] = list(_NOISES).index(segments[-1].noise)


def _with_onsets(voicing: Array) -> Array:
    """Notes after silence start within 40 ms and end over 90 ms, as breath pressure builds up and falls."""
    silent = voicing <= 0.0
    edges = np.flatnonzero(np.diff(np.concatenate([[True], silent, [True]]).astype(np.int8)))
    shaped: Array = voicing.copy()
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        rise, fall = min(40, (stop - start) // 2), min(90, (stop - start) // 2)
        shaped[start : start + rise] *= np.sin(0.5 * np.pi * np.arange(rise) / max(rise, 1))
        shaped[stop - fall : stop] *= np.cos(0.5 * np.pi * np.arange(fall) / max(fall, 1))
    return shaped


def _f0_curve(
    notes: Sequence[Note],
    ends: Array,
    score: _Score,
    vibrato_hz: float,
    vibrato_cents: float,
    vibrato_delay: float,
    portamento: float,
    random: np.random.Generator,
) -> Array:
    """Hz at `CONTROL_RATE`: steps joined by portamento, scoops after silence, vibrato, drift and jitter."""
    steps = len(score.voicing)
    time = np.arange(steps) / CONTROL_RATE
    of_note = np.minimum(np.searchsorted(ends, time, side="right"), len(notes) - 1)
    sung = np.array([bool(note.vowel) for note in notes])
    pitch_of = np.array([note.midi for note in notes], np.float64)
    for index in range(len(notes) - 1, -1, -1):
        # A rest is at the pitch of the note to come, the last rest at that of the note before.
        if not sung[index]:
            later = np.flatnonzero(sung[index:])
            earlier = np.flatnonzero(sung[:index])
            if len(later):
                pitch_of[index] = pitch_of[index + later[0]]
            elif len(earlier):
                pitch_of[index] = pitch_of[earlier[-1]]
    midi = _smooth(pitch_of[of_note], portamento)

    starts = np.concatenate([[0.0], ends[:-1]])
    since = time - starts[of_note]
    after_rest = np.array([index == 0 or not sung[index - 1] for index in range(len(notes))]) & sung
    midi -= np.where(after_rest[of_note], 0.8 * np.exp(-np.maximum(since, 0.0) / 0.05), 0.0)

    left = ends[of_note] - time
    grown = np.clip((since - vibrato_delay) / 0.25, 0.0, 1.0) * np.clip(left / 0.08, 0.0, 1.0) * sung[of_note]
    rate = vibrato_hz * (1.0 + 0.06 * _wander(steps, 0.35, random))
    # Depth lives too: no two waves of a vibrato are alike.
    depth = vibrato_cents * _smooth(grown, 0.080) * (1.0 + 0.12 * _wander(steps, 0.30, random))
    vibrato = depth * np.sin(2.0 * np.pi * np.cumsum(rate) / CONTROL_RATE)
    cents = vibrato + 7.0 * _wander(steps, 0.35, random) + 4.0 * _wander(steps, 0.006, random)
    hertz: Array = 440.0 * 2.0 ** ((midi - 69.0 + cents / 100.0) / 12.0)
    return hertz


def _glottis(
    phase: Array, f0_control: Array, at: Array, sample_rate: int, breathiness: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The derivative of the glottal flow (rms 1) and how far the glottis is open (0..1), at each phase in cycles."""
    size = 4096
    open_quotient = 0.50 + 0.30 * breathiness
    t = np.arange(size) / size / open_quotient
    # KLGLOTT88: flow = t^2 - t^3 while open; it closes abruptly, which excites the tract.
    flow = np.where(t < 1.0, t**2 - t**3, 0.0)
    spectrum = np.fft.rfft(np.where(t < 1.0, 2.0 * t - 3.0 * t**2, 0.0))
    spectrum[0] = 0.0

    # A table for each sixth of an octave, holding only the harmonics that stay below the Nyquist frequency there.
    spacing = 6
    harmonics = np.minimum(0.47 * sample_rate / f0_control, size // 4)
    levels = np.floor(spacing * np.log2(np.maximum(harmonics, 1.0))).astype(np.int64)
    lowest = int(levels.min())
    tables = []
    for level in range(lowest, int(levels.max()) + 1):
        limited = spectrum.copy()
        limited[int(2.0 ** (level / spacing)) + 1 :] = 0.0
        tables.append(np.fft.irfft(limited, size))
    bank = np.array(tables)
    bank /= np.sqrt(np.mean(bank[-1] ** 2))
    # One point more, a copy of the first: interpolation need not wrap.
    flat = np.concatenate([bank, bank[:, :1]], axis=1).astype(np.float32).ravel()

    place = (phase - np.floor(phase)) * size
    point = place.astype(np.int64)
    fraction = (place - point).astype(np.float32)
    row = (levels - lowest)[at.astype(np.int64)] * (size + 1)
    below, above = flat[row + point], flat[row + point + 1]
    opening = (flow / flow.max()).astype(np.float32)[point]
    return below + fraction * (above - below), opening


def _shimmer(phase: Array, random: np.random.Generator) -> Array:
    """A gain that changes from cycle to cycle by some 0.2 dB."""
    cycles = random.standard_normal(int(phase[-1]) + 2)
    return 1.0 + 0.025 * _at(cycles, phase)


def _vocal_tract(
    excitation: NDArray[np.float32],
    friction: NDArray[np.float32],
    score: _Score,
    f0_control: Array,
    sample_rate: int,
    breathiness: float,
    tract: float,
) -> NDArray[np.float32]:
    """Filter by overlap-add: frames of 20 ms every 10 ms, each with the tract of its centre."""
    hop = round(0.01 * sample_rate)
    # Twice the frame, so that formants ring out before the circular convolution wraps.
    size = 1 << math.ceil(math.log2(4 * hop))
    frequency = np.fft.rfftfreq(size, 1.0 / sample_rate)
    fixed = _fixed_response(frequency, sample_rate, breathiness, tract)
    octaves = np.log2(np.maximum(frequency, 20.0))
    bells = [-0.5 * ((octaves - np.log2(centre)) / width) ** 2 for centre, width in _NOISES.values()]
    colours = np.exp(bells).astype(np.float32)
    length = len(excitation)
    frames = length // hop + 2
    window = np.sin(np.pi * (np.arange(2 * hop) + 0.5) / (2 * hop)) ** 2
    window = window.astype(np.float32)
    padded = np.zeros((2, (frames + 1) * hop), np.float32)
    padded[0, hop : hop + length] = excitation
    padded[1, hop : hop + length] = friction
    output: NDArray[np.float32] = np.zeros((frames - 1) * hop + size, np.float32)

    step = np.minimum(np.arange(frames) * hop * CONTROL_RATE // sample_rate, len(f0_control) - 1)
    batch = 128  # bounds the memory of a long song
    for first in range(0, frames, batch):
        some = np.arange(first, min(first + batch, frames))
        cut = some[:, None] * hop + np.arange(2 * hop)
        response = _formant_response(frequency, score, f0_control, step[some], tract) * fixed
        spectra = np.fft.rfft(padded[0][cut] * window, size) * response
        noisy = np.flatnonzero(padded[1][cut].any(axis=1))
        if len(noisy):
            hiss = np.fft.rfft(padded[1][cut[noisy]] * window, size)
            spectra[noisy] += hiss * colours[score.noise[step[some[noisy]]]]
        for index, wave in zip(some, np.fft.irfft(spectra, size), strict=True):
            output[index * hop : index * hop + size] += wave.astype(np.float32)
    return output[hop : hop + length]


def _fixed_response(frequency: Array, sample_rate: int, breathiness: float, tract: float) -> NDArray[np.complex64]:
    """What does not move: the formants above F5, one for each kHz, and the tilt of the source."""
    response = np.ones(len(frequency), np.complex128)
    formant = 5000.0 * tract
    # Those above the Nyquist frequency still raise what lies below them.
    while formant < 4 * sample_rate:
        relative = frequency / formant
        response /= 1.0 - relative**2 + 1j * relative * 0.12
        formant += 1000.0 * tract
    # The rounded closure of a real glottis (the return phase): one pole.
    response /= 1.0 + 1j * frequency / (8000.0 - 6500.0 * breathiness)
    return response.astype(np.complex64)


def _formant_response(
    frequency: Array, score: _Score, f0_control: Array, steps: NDArray[np.int64], tract: float
) -> NDArray[np.complex64]:
    """Responses [steps, frequencies]: five resonators in a row, and a nasal's pair of zeros."""
    formants = score.formants[steps] * tract
    bandwidths = score.bandwidths[steps]
    # Singers open the mouth so that F1 never lies below f0: else the voice would lose its fundamental. A wide F1 keeps
    # the notes that hit it from standing out.
    f0 = f0_control[steps]
    formants[:, 0] = np.maximum(formants[:, 0], 1.15 * f0)
    formants[:, 1] = np.maximum(formants[:, 1], formants[:, 0] + 150.0)
    bandwidths[:, 0] = np.maximum(bandwidths[:, 0], 0.35 * f0)
    hertz = frequency.astype(np.float32)
    response = np.ones((len(steps), len(hertz)), np.complex64)
    for index in range(5):
        inverse = (1.0 / formants[:, index, None]).astype(np.float32)
        damping = bandwidths[:, index, None].astype(np.float32) * inverse
        relative = hertz * inverse
        response *= (1.0 - relative * relative) + 1j * (relative * damping)
    response = 1.0 / response
    if score.nasality[steps].any():
        place = hertz / score.nasal_zero_hz[steps, None].astype(np.float32)
        # Above the zero the side branch's own poles follow: the level stays.
        zeros = (1.0 - place * place + 0.15j * place) / (1.0 + place * place)
        nasality = score.nasality[steps, None].astype(np.float32)
        response *= 1.0 - nasality + nasality * zeros
    return response.astype(np.complex64)


def _at(curve: Array, at: Array) -> Array:
    """A curve at fractional steps."""
    values: Array = np.interp(at, np.arange(len(curve)), curve)
    return values


def _smooth(curve: Array, seconds: float) -> Array:
    """Smooth along time with a Hann bell of this whole width; the ends are held."""
    count = max(2, round(seconds * CONTROL_RATE))
    bell = np.hanning(count + 2)[1:-1]
    bell /= bell.sum()
    before = count // 2
    columns = curve.reshape(len(curve), -1)
    held = np.pad(columns, ((before, count - 1 - before), (0, 0)), mode="edge")
    smooth = np.stack([np.convolve(column, bell, "valid") for column in held.T], axis=1)
    return smooth.reshape(curve.shape)


def _wander(steps: int, seconds: float, random: np.random.Generator) -> Array:
    """Noise of unit deviation that changes over this many seconds."""
    count = max(2, round(seconds * CONTROL_RATE))
    bell = np.hanning(count + 2)[1:-1]
    bell /= np.sqrt(np.sum(bell**2))
    return np.convolve(random.standard_normal(steps + count - 1), bell, "valid")


def _check(
    notes: Sequence[Note],
    sample_rate: int,
    vibrato_hz: float,
    vibrato_cents: float,
    vibrato_delay: float,
    portamento: float,
    breathiness: float,
    creak: float,
    tract: float,
) -> None:
    if not notes:
        raise ValueError("notes must hold at least one note, got none")
    for index, note in enumerate(notes):
        if note.vowel and note.vowel not in VOWELS:
            raise ValueError(f"the vowel of note {index} must be one of {list(VOWELS)} or empty, got {note.vowel!r}")
        if note.consonant not in _CONSONANTS:
            raise ValueError(f"the consonant of note {index} must be one of {CONSONANTS}, got {note.consonant!r}")
        if note.consonant and not note.vowel:
            raise ValueError(f"note {index} is a rest and can have no consonant, got {note.consonant!r}")
    bounds = [
        *((f"midi of note {index}", note.midi, 24.0, 96.0) for index, note in enumerate(notes)),
        *((f"seconds of note {index}", note.seconds, 0.02, 60.0) for index, note in enumerate(notes)),
        ("sample_rate", sample_rate, 8000, 192_000),
        ("vibrato_hz", vibrato_hz, 0.1, 12.0),
        ("vibrato_cents", vibrato_cents, 0.0, 300.0),
        ("vibrato_delay", vibrato_delay, 0.0, 60.0),
        ("portamento", portamento, 0.01, 10.0),
        ("breathiness", breathiness, 0.0, 1.0),
        ("creak", creak, 0.0, 1.0),
        ("tract", tract, 0.7, 1.6),
    ]
    for name, value, low, high in bounds:
        if not low <= value <= high:
            raise ValueError(f"{name} must be within {low} to {high}, got {value}")
