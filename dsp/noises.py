"""Where a recording hisses, bursts and breathes: its sibilants, plosives and breaths, which conversions smear first."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dsp.envelope import onsets, phrase_power
from dsp.pitch import PitchTrack

Floats = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]
Kind = Literal["sibilant", "plosive", "breath"]
KINDS: tuple[Kind, ...] = get_args(Kind)

WINDOW_S, HOP_S = 0.02, 0.01
LOWEST_HZ = 80.0  # rumble is below
HISS_HZ = 4_000.0  # sibilants have most of their power above, vowels hardly any
MIDDLE_HZ = 1_000.0  # breath has most of its power above, unlike hum, steps and the decay of a low note
APART_S = 0.3  # between two of a kind: as long as a picture of one

HISS_FRAMES = 5  # of hiss alone: a burst is shorter
SOFTEST_DB = -30.0  # against the phrases, of which it is a part

CLOSURE_S, SPOKEN_DB = 0.15, -20.0  # so long before a burst, at most, the word was louder: what follows a pause may be any attack
FIRST_PARTIALS_HZ = 500.0  # below lies much of a voice, and hardly anything of a burst
AFFRICATE_FRAMES = 8  # for so long a burst may hiss at most

BREATH_DB = (-40.0, -12.0)  # against the phrases
OVER_FLOOR_DB = 8.0  # above the room's own noise, the recording's fifth percentile
BREATH_FRAMES = 10  # at least, ...
STEADY_DB = 2.5  # ... of which the levels have this standard deviation at most: bursts and a room's decay have more
PAUSE_S = 0.25  # from voice to voice, at least: consonants within a word are shorter, ...
AFTER_VOICE_S = 0.05  # ... and those at its end follow at once
BEFORE_PHRASE_S = 0.5  # singers breathe in, and go on


@dataclass(frozen=True)
class Noise:
    """A place in a recording.

    Attributes
    ----------
    kind : "sibilant", "plosive" or "breath"
    time_s : float
        Of a sibilant and a breath where it is loudest; of a plosive, the burst.
    clarity_db : float
        How far it stands out: a sibilant's level above 4 kHz against the phrases, a plosive's rise within 5 ms, a breath's
        level against the phrases. To be compared within a kind, also between recordings.
    """

    kind: Kind
    time_s: float
    clarity_db: float


def find_noises(audio: ArrayLike, sample_rate: float, pitch: PitchTrack) -> list[Noise]:
    """Sibilants, plosives and breaths of `audio` [n], of each kind the clearest first and 0.3 s apart.

    Parameters
    ----------
    audio : [n]
    sample_rate : Hz
        16 kHz and more: sibilants lie up there.
    pitch
        Of the same recording; what is voiced is none of the three.
    """
    x = np.asarray(audio, np.float64)
    bands_hz = ((LOWEST_HZ, math.inf), (0.0, FIRST_PARTIALS_HZ), (MIDDLE_HZ, math.inf), (HISS_HZ, math.inf))
    heard, low, middle, hiss = _powers(x, sample_rate, *bands_hz)
    loud = phrase_power(heard)
    if not loud > 0:
        return []
    times_s = np.arange(len(heard)) * round(HOP_S * sample_rate) / sample_rate + WINDOW_S / 2
    level_db, hiss_db = (10 * np.log10(np.maximum(power / loud, 1e-12)) for power in (heard, hiss))
    hisses = hiss > heard / 2
    voiced = np.interp(times_s, pitch.times_s, pitch.voiced, left=0.0, right=0.0) > 0
    found = _sibilants(times_s, hiss_db, hisses & ~voiced)
    found += _plosives(x, sample_rate, times_s, level_db, low < 0.1 * heard, hisses)
    found += _breaths(times_s, level_db, voiced, (middle > heard / 2) & ~hisses)
    return _apart(found)


def _powers(x: Floats, sample_rate: float, *bands_hz: tuple[float, float]) -> Floats:
    """Of each whole frame in each band [bands, frames]."""
    window, hop = round(WINDOW_S * sample_rate), round(HOP_S * sample_rate)
    hz = np.fft.rfftfreq(window, 1 / sample_rate)
    inside = np.array([(low <= hz) & (hz < high) for low, high in bands_hz], np.float64)
    frames = np.lib.stride_tricks.sliding_window_view(x, window)[::hop] if len(x) >= window else np.empty((0, window))
    powers = np.empty((len(bands_hz), len(frames)))
    for k in range(0, len(frames), 4096):  # an hour at once would take gigabytes
        powers[:, k : k + 4096] = inside @ np.square(np.abs(np.fft.rfft(frames[k : k + 4096] * np.hanning(window)))).T
    return powers


def _sibilants(times_s: Floats, hiss_db: Floats, hisses: Mask) -> list[Noise]:
    lasting = np.convolve(hisses, np.ones(HISS_FRAMES), "same")[: len(hisses)] > HISS_FRAMES - 0.5
    found = []
    for start, end in _stretches(lasting & (hiss_db > SOFTEST_DB)):
        loudest = start + int(np.argmax(hiss_db[start:end]))
        found.append(Noise("sibilant", float(times_s[loudest]), float(hiss_db[loudest])))
    return found


def _plosives(x: Floats, sample_rate: float, times_s: Floats, level_db: Floats, bursts: Mask, hisses: Mask) -> list[Noise]:
    found = []
    for time_s, rise_db in onsets(x, sample_rate):
        k = int(np.searchsorted(times_s, time_s))
        before = level_db[max(0, k - round(CLOSURE_S / HOP_S)) : max(0, k - 2)]  # the last ones' windows reach into the burst
        # Vowels may begin as suddenly, but with a voice; and sibilants, but they last.
        if (before > SPOKEN_DB).any() and bursts[k : k + 1].any() and not hisses[k : k + AFFRICATE_FRAMES].all():
            found.append(Noise("plosive", time_s, rise_db))
    return found


def _breaths(times_s: Floats, level_db: Floats, voiced: Mask, airy: Mask) -> list[Noise]:
    floor_db = float(np.percentile(level_db, 5))
    least, most = BREATH_DB
    soft = airy & ~voiced & (level_db > max(least, floor_db + OVER_FLOOR_DB)) & (level_db < most)
    found = []
    for start, end in _stretches(soft):
        earlier, later = np.flatnonzero(voiced[:start]), np.flatnonzero(voiced[end:])
        if end - start < BREATH_FRAMES or not len(later) or later[0] * HOP_S > BEFORE_PHRASE_S:
            continue
        since = start - earlier[-1] if len(earlier) else math.inf
        if since * HOP_S < AFTER_VOICE_S or (since + end - start + later[0]) * HOP_S < PAUSE_S:
            continue
        windows = np.lib.stride_tricks.sliding_window_view(level_db[start:end], BREATH_FRAMES)
        loudest = int(np.argmax(np.where(windows.std(axis=1) < STEADY_DB, windows.mean(axis=1), -math.inf)))
        if windows[loudest].std() < STEADY_DB:
            middle_s = float(times_s[start + loudest + BREATH_FRAMES // 2])
            found.append(Noise("breath", middle_s, float(windows[loudest].mean())))
    return found


def _stretches(mask: Mask) -> list[tuple[int, int]]:
    """Start and end of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(int)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _apart(found: list[Noise]) -> list[Noise]:
    """The clearest first, and none beside a clearer one of its kind."""
    kept: list[Noise] = []
    for noise in sorted(found, key=lambda noise: -noise.clarity_db):
        if all(noise.kind != other.kind or abs(noise.time_s - other.time_s) >= APART_S for other in kept):
            kept.append(noise)
    return kept
