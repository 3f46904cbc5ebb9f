"""Pitch of a whole take on a grid of frames, as a converter needs it: an octave that is right, and a number everywhere.

The take is tracked in stretches, so that an hour fits into memory, at a low rate, which holds all that tells pitch. What a
tracker calls a voice's pitch may be another octave, or no voice at all; the spectrum tells.
"""

from __future__ import annotations

import csv
import functools
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyworld
from numpy.typing import NDArray

from dsp.pitch import HIGHEST_HZ, LOWEST_HZ, track_pitch
from dsp.resampling import resample

FRAME_RATE = 100  # frames a second; frame k is centred on second k / 100
STRETCH_S, MARGIN_S = 60, 1  # tracked at once, and how much more of the take is heard around it
LOW_RATE_HZ = 10_000  # at least: the harmonics that tell an octave lie below 4 kHz, and WORLD's cost grows with the rate
SILENT_HZ = 150.0  # where nothing at all is voiced

SWIFT_RATE, SWIFT_HOP = 16_000, 256  # SwiftF0's own
SWIFT_REACH = 12  # of its frames: on 2815 samples to each side depends what it says of a frame
SWIFT_FRAMES = 340  # at once, 5.4 s: what its layers hand on then fits the processor's cache
# A frame of this confidence is voiced; of a voice that may die away, also one of that, if it is within so many frames (190 ms) of a
# sure one, and all between are likely, too.
SWIFT_SURE, SWIFT_LIKELY, SWIFT_LINGERS = 0.5, 0.35, 12
SWIFT_SILENCE = 1e-3  # a frame without a peak so high it calls unvoiced, whatever its network says
# StoneMask finds the pitch in the phases near SwiftF0's: alone, that one makes a vibrato of 30 cents at 82 Hz 28 % shallower in a
# conversion, so 5 %. What is farther away, in cents, is another partial's, or noise.
REFINED_CENTS = 50.0

WINDOW_S = 0.064  # of the spectra that settle the octave: resolves harmonics 30 Hz apart
HARMONICS = 10
HIGHEST_HARMONIC_HZ = 3800.0
OCTAVES = np.array([-1.0, 0.0, 1.0])  # of a tracker's pitch that are considered
# In nepers of peaks over valleys: how much clearer than the tracker's own octave another one must be, what a jump of one octave
# between two frames costs, and how clear it must be at all.
DOUBT = 0.15
JUMP = 3.0
LEAST_CLARITY = 0.6  # mean over 50 ms, for a voice

Method = Literal["dio", "harvest", "swift"]


@dataclass(frozen=True)
class F0Track:
    """Fundamental frequency, 100 frames a second.

    Attributes
    ----------
    hz : float64 [frames]
        Positive everywhere: where there is no voice, on a straight line (in log frequency) between its neighbours.
    voiced : bool [frames]
    """

    hz: NDArray[np.float64]
    voiced: NDArray[np.bool_]


def track_f0(
    audio: NDArray[np.float32], sample_rate: int, method: Method = "swift", *, lasting: bool = False
) -> F0Track:
    """Pitch of a take between 60 and 1100 Hz, frame k at second k / 100, as many frames as begin within it.

    Parameters
    ----------
    audio : [n], mono
    sample_rate : Hz
    method
        "swift" is the network SwiftF0 (Nieradzik 2025), refined by StoneMask (Morise 2016). It and "dio" (with StoneMask; the
        paper's) take some 1 % of the take's length on one core, "harvest" 20 %. On nine takes conversions agreed with the source
        in voicing on 96.7 % of frames with "swift", 93.1 % with "dio". Harvest finds them 13.7 cents apart (median; 17.4
        without StoneMask), SwiftF0 itself 7.2 (6.2).
    lasting
        Whether "swift" is to go on through what is likely, and no more, to be the rest of a voice, or its beginning.

    Raises
    ------
    ValueError
        Of the audio, as `dsp.pitch.track_pitch`.
    """
    frames = len(audio) * FRAME_RATE // sample_rate + 1
    hz = np.zeros(frames)
    for first in range(0, frames, STRETCH_S * FRAME_RATE):
        start = max(0, first - MARGIN_S * FRAME_RATE)
        stop = min(frames, first + (STRETCH_S + MARGIN_S) * FRAME_RATE)
        stretch = audio[start * sample_rate // FRAME_RATE : stop * sample_rate // FRAME_RATE]
        low, rate = lowered(stretch, sample_rate)
        if method == "swift":
            found = refined(low, rate, _track_swift(resample(stretch, sample_rate, SWIFT_RATE), stop - start, lasting))
        else:
            # WORLD's frames are half as far apart.
            every = track_pitch(low, rate, method="harvest" if method == "harvest" else "dio").hz[::2]
            found = np.pad(every, (0, max(0, stop - start - len(every))))[: stop - start]
            # SwiftF0's octaves are better than what the spectrum says: repaired, a fifth of one take fell an octave.
            found = right_octave(low, rate, found)
        inside = slice(first - start, min(frames, first + STRETCH_S * FRAME_RATE) - start)
        hz[start + inside.start : start + inside.stop] = found[inside]
    voiced = hz > 0
    return F0Track(fill_unvoiced(hz, voiced), voiced)


def fill_unvoiced(hz: NDArray[np.float64], voiced: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Interpolate log f0 through unvoiced stretches, the rest as it is; all unvoiced gives 150 Hz."""
    if not voiced.any():
        return np.full(len(hz), SILENT_HZ)
    at = np.flatnonzero(voiced)
    return np.where(voiced, hz, np.exp(np.interp(np.arange(len(hz)), at, np.log(hz[at]))))


def lowered(audio: NDArray[np.float32], sample_rate: int) -> tuple[NDArray[np.float64], int]:
    """Audio [n] at the lowest whole fraction of its rate from 10 kHz on, sample 0 in its place: ([n / fraction], rate)."""
    factor = max(q for q in range(1, max(1, sample_rate // LOW_RATE_HZ) + 1) if sample_rate % q == 0)
    x = np.asarray(audio, np.float64)
    if factor == 1 or not len(x):
        return x, sample_rate // factor
    # Hann-windowed sinc: flat to 0.7 of the new Nyquist frequency, -44 dB from 1.3 on, which harmonics of a voice are anyway.
    half = 5 * factor
    k = np.arange(-half, half + 1)
    taps = np.sinc(k / factor) * (0.5 + 0.5 * np.cos(np.pi * k / (half + 1)))
    return np.ascontiguousarray(np.convolve(x, taps / taps.sum())[half : half + len(x)][::factor]), sample_rate // factor


def right_octave(audio: NDArray[np.float64], sample_rate: int, hz: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pitch [frames] (0 where unvoiced) with each frame moved to the octave that the audio's spectrum and its neighbours say.

    A true pitch has peaks at its multiples and valleys between. An octave too high, the valleys hold peaks; an octave too low,
    half of the peaks are valleys. The path of least doubt through each voiced stretch is found by dynamic programming
    (Viterbi), a jump between frames being doubtful by itself. Where no octave has clear peaks, there is no voice: DIO takes
    the echo of a note, or a breath, for one.
    """
    out = hz.copy()
    edges = np.flatnonzero(np.diff(np.pad((hz > 0).astype(np.int8), 1)))
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        stretch = hz[start:stop]
        candidates = stretch[:, None] * 2.0**OCTAVES
        clarity = _clarity(audio, sample_rate, start, candidates)
        doubt = DOUBT * np.abs(OCTAVES) - clarity
        doubt[(candidates < LOWEST_HZ) | (candidates > HIGHEST_HZ)] = np.inf
        doubt[:, 1] = np.where(np.isfinite(doubt[:, 1]), doubt[:, 1], 0.0)
        chosen = np.arange(len(stretch)), _best_path(doubt, np.log2(candidates))
        near = np.convolve(np.pad(clarity[chosen], 2, mode="edge"), np.full(5, 0.2), "valid")
        out[start:stop] = np.where(near > LEAST_CLARITY, candidates[chosen], 0.0)
    return out


def _best_path(cost: NDArray[np.float64], height: NDArray[np.float64]) -> NDArray[np.int64]:
    """Choices [frames] with the least sum of `cost` [frames, choices] and of JUMP times the distance of `height` in between."""
    frames = len(cost)
    came_from = np.zeros(cost.shape, np.int64)
    total = cost[0]
    for k in range(1, frames):
        through = total[:, None] + JUMP * np.abs(height[k][None] - height[k - 1][:, None])
        came_from[k] = through.argmin(0)
        total = through.min(0) + cost[k]
    path = np.empty(frames, np.int64)
    path[-1] = total.argmin()
    for k in range(frames - 1, 0, -1):
        path[k - 1] = came_from[k, path[k]]
    return path


def _clarity(
    audio: NDArray[np.float64], sample_rate: int, first: int, hz: NDArray[np.float64]
) -> NDArray[np.float64]:
    """How far the spectrum at multiples of `hz` [frames, choices] stands above that half-way between them, in nepers."""
    length = 2 * round(WINDOW_S * sample_rate / 2)
    n_fft = 2 ** math.ceil(math.log2(2 * length))  # zero-padded: multiples fall between bins
    window = np.hanning(length + 1)[:-1]
    out = np.empty(hz.shape)
    harmonic = np.arange(1, HARMONICS + 1)
    for start in range(0, len(hz), 256):
        part = hz[start : start + 256]
        centres = np.round((first + start + np.arange(len(part))) * sample_rate / FRAME_RATE).astype(np.int64)
        begin = centres[0] - length // 2
        end = centres[-1] + length - length // 2
        heard = np.pad(audio[max(0, begin) : end], (max(0, -begin), max(0, end - len(audio))))
        frames = np.lib.stride_tricks.sliding_window_view(heard, length)[centres - centres[0]]
        magnitude = np.abs(np.fft.rfft(frames * window, n_fft, axis=1))
        # A floor 60 dB down: noise between the harmonics is as good as nothing.
        level = np.log(magnitude + 1e-3 * magnitude.max(1, keepdims=True) + 1e-12)
        row = np.arange(len(part))[:, None, None]

        def at(frequency: NDArray[np.float64], level: NDArray[np.float64] = level, row: NDArray[Any] = row) -> NDArray[np.float64]:
            position = np.minimum(frequency * n_fft / sample_rate, n_fft // 2 - 1)
            bins = position.astype(np.int64)
            fraction = position - bins
            return np.asarray(level[row, bins] * (1 - fraction) + level[row, bins + 1] * fraction)

        multiple = part[:, :, None] * harmonic
        counted = multiple <= HIGHEST_HARMONIC_HZ
        difference = (at(multiple) - at(multiple - part[:, :, None] / 2)) * counted
        out[start : start + 256] = difference.sum(2) / np.maximum(counted.sum(2), 1)
    return out


@functools.cache
def _swift() -> Any:
    from swift_f0 import SwiftF0  # not before it is wanted: it loads its network's runtime

    return SwiftF0(threads=1, spin=False)


def _track_swift(audio: NDArray[np.float32], frames: int, lasting: bool) -> NDArray[np.float64]:
    """Pitch [frames] in Hz, 0 where unvoiced, of audio [n] at `SWIFT_RATE`."""
    if not np.isfinite(audio).all():
        raise ValueError("pitch needs finite samples, but the audio contains NaN or infinity")
    count = len(audio) // SWIFT_HOP
    peaks = np.abs(audio[: count * SWIFT_HOP]).reshape(count, SWIFT_HOP).max(axis=1)
    hz, confidence = np.zeros(count), np.zeros(count)
    for first in _windows(peaks >= SWIFT_SILENCE):
        # All of one length, as far as the audio goes: the runtime keeps memory for each length that it has met.
        begin = max(0, min(first, count - SWIFT_FRAMES - SWIFT_REACH) - SWIFT_REACH)
        heard = audio[begin * SWIFT_HOP :][: (SWIFT_FRAMES + 2 * SWIFT_REACH) * SWIFT_HOP]
        result = _swift().detect(heard, SWIFT_RATE, fmin=LOWEST_HZ, fmax=HIGHEST_HZ)
        found = slice(first, first + SWIFT_FRAMES), slice(first - begin, first - begin + SWIFT_FRAMES)
        hz[found[0]], confidence[found[0]] = result.pitch_hz[found[1]], result.confidence[found[1]]
    voiced = lasting_voice(confidence) if lasting else confidence >= SWIFT_SURE
    if not voiced.any():
        return np.zeros(frames)
    seconds, grid = np.arange(count) * (SWIFT_HOP / SWIFT_RATE), np.arange(frames) / FRAME_RATE
    on_grid = np.exp(np.interp(grid, seconds, np.log(fill_unvoiced(hz, voiced))))
    return np.where(np.interp(grid, seconds, voiced.astype(np.float64)) > 0.5, on_grid, 0.0)


def refined(audio: NDArray[np.float64], sample_rate: int, hz: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pitch [frames] (0 where unvoiced) as StoneMask finds it in `audio` [n] next to it, where it finds any within 50 cents."""
    if not hz.any():
        return hz
    near = pyworld.stonemask(audio, hz, np.arange(len(hz)) / FRAME_RATE, sample_rate)
    both = (hz > 0) & (near > 0)
    cents = 1200 * np.abs(np.log2(np.where(both, near, 1.0) / np.where(both, hz, 1.0)))
    return np.where(both & (cents < REFINED_CENTS), near, hz)


def lasting_voice(confidence: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of SwiftF0's frames are voiced, of the confidence [frames] of each, if a voice may die away."""
    voiced, likely = confidence >= SWIFT_SURE, confidence >= SWIFT_LIKELY
    for _ in range(SWIFT_LINGERS):
        near = np.pad(voiced, 1)
        voiced = voiced | (likely & (near[:-2] | near[2:]))
    return voiced


def _windows(sound: NDArray[np.bool_]) -> Iterator[int]:
    """First frames of windows of `SWIFT_FRAMES` that hold all frames where there is sound, each beginning with one."""
    at = np.flatnonzero(sound)
    while len(at):
        yield int(at[0])
        at = at[np.searchsorted(at, at[0] + SWIFT_FRAMES) :]


COLUMNS = ["time_s", "hz", "voiced"]
EDITED_HZ = (20.0, 4000.0)  # what a person may write
FIT_S = 0.5  # by which a table may begin or end before or after its take
MOST_GAP_S = 2.0  # between rows: a long note, or a glide; more is a part of the table that was lost


def write_f0_csv(path: Path, track: F0Track) -> None:
    """Write a track as a table of time_s, hz and voiced (0 or 1), beside first, then renamed."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(COLUMNS)
            for frame, (hz, voiced) in enumerate(zip(track.hz, track.voiced, strict=True)):
                # All digits: read again, it is the same track.
                table.writerow([f"{frame / FRAME_RATE:.2f}", float(hz), int(voiced)])
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read_f0_csv(path: Path, frames: int) -> F0Track:
    """Read a table that `write_f0_csv` wrote and a person may have edited, for a take of `frames` frames.

    Rows may be missing, up to two seconds of them, or added: f0 runs straight (in log frequency) between voiced rows, and a frame
    is voiced if the row nearest to it is. hz of unvoiced rows is not looked at. Where nothing was edited, the track is what it was.

    Raises
    ------
    ValueError
        One sentence that names the file and the row, if it is no such table, begins or ends elsewhere than the take, or has a
        gap.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = np.array(list(_rows(path, file)), np.float64).reshape(-1, 3)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        problem = getattr(error, "strerror", None) or error
        raise ValueError(f"expected an f0 table in {path}, but it cannot be read: {problem}") from None
    if not len(rows):
        raise ValueError(f"expected rows of {', '.join(COLUMNS)} in {path}, found none")
    seconds, hz, voiced = rows[:, 0], rows[:, 1], rows[:, 2] > 0
    end = (frames - 1) / FRAME_RATE
    if seconds[0] > FIT_S:
        raise ValueError(f"the f0 table {path} begins at {seconds[0]:.2f} s, but the take at 0.00 s")
    if abs(seconds[-1] - end) > FIT_S:
        raise ValueError(f"the f0 table {path} ends at {seconds[-1]:.2f} s, but the take at {end:.2f} s")
    k = int(np.argmax(np.diff(seconds, prepend=seconds[0])))
    before, after = seconds[max(0, k - 1)], seconds[k]
    if after - before > MOST_GAP_S:
        wanted = f"but must have one every {MOST_GAP_S:.0f} s at least"
        raise ValueError(f"the f0 table {path} has no row between {before:.2f} and {after:.2f} s, {wanted}")
    grid = np.arange(frames) / FRAME_RATE
    nearest = np.searchsorted((seconds[1:] + seconds[:-1]) / 2, grid - 1e-9)
    on_grid, sung = np.full(frames, SILENT_HZ), voiced[nearest]
    if voiced.any():
        on_grid = np.exp(np.interp(grid, seconds[voiced], np.log(hz[voiced])))
        written = sung & (seconds[nearest] == grid)
        on_grid[written] = hz[nearest[written]]
    return F0Track(fill_unvoiced(on_grid, sung), sung)


def _rows(path: Path, file: Any) -> Iterator[tuple[float, float, float]]:
    table = csv.reader(file)
    header = next(table, [])
    if [name.strip() for name in header] != COLUMNS:
        raise ValueError(f"expected the columns {','.join(COLUMNS)} in {path}, found {','.join(header)[:60]!r}")
    before = -1.0
    for row in table:
        if not row:
            continue
        where = f"{path}, line {table.line_num}"
        try:
            time, written, flag = row
            second, voiced = float(time), float(flag)
            hz = float(written) if voiced else 0.0
        except ValueError:
            raise ValueError(f"{where}: expected three numbers, found {','.join(row)[:60]!r}") from None
        if not (math.isfinite(second) and second > before):
            raise ValueError(f"{where}: expected times that grow from 0 s on, found {second} s after {before} s")
        if voiced not in (0.0, 1.0):
            raise ValueError(f"{where}: expected voiced 0 or 1, found {flag[:20]}")
        if voiced and not EDITED_HZ[0] <= hz <= EDITED_HZ[1]:
            raise ValueError(f"{where}: expected a pitch of {EDITED_HZ[0]:.0f} to {EDITED_HZ[1]:.0f} Hz, found {written[:20]}")
        before = second
        yield second, hz, voiced
