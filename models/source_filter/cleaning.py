"""What of a user's recording a voice can be learned from, and what is wrong with the rest.

A studio's takes pass as they are. What is merely quiet is raised, since the loss and the 16 bits in which recordings are packed
end some 75 and 96 dB under full scale; long pauses are cut out; what holds no voice is left out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from swift_f0 import SwiftF0

from models.source_filter.data import SHORTEST, decode, pieces, to_mono, track_hops
from models.source_filter.features import HOP, SAMPLE_RATE

Floats = NDArray[np.float32]

FRAME_HOPS = 10  # 53 ms: some periods of the lowest voice, and no syllable is shorter
FRAME = FRAME_HOPS * HOP
FRAMES_A_SECOND = SAMPLE_RATE / FRAME
NOTHING_DB = -80.0  # dBFS of the loudest frame: below, there is but the noise of a sound card
EMPTY_DB = -90.0  # dBFS: a gate or an editor made it, and it tells nothing of the room

# Levels are those that a hundredth of the frames exceed: the bundled voices' takes lie between -25 and -14 dBFS. SwiftF0 hears less
# pitch in what is quieter: at -50 dBFS it loses a quarter of it, at -70 all.
QUIET_DB, USUAL_DB = -36.0, -20.0
WITHIN_DB = 60.0  # of the loudest frame: what is quieter does not count, or a word in an hour of silence would be quiet

LEAST_VOICED_S = 0.5
LEAST_VOICED = 0.05  # of the frames that are no pause: noise and music without a voice have less

# A clipped wave stands still at its highest value; a sine does so, within this, for fewer than three samples down to 40 Hz.
FLAT = 3e-5
CLIPPED = 1e-3  # of all samples: from here on it is heard

# Under the voice. Nearer than the first, the network learns the room with the throat (clean takes have 30 to 60); nearer than the
# second, it is hum or hiss that the pitch was heard in.
NOISY_DB, DROWNED_DB = 20.0, 6.0
PAUSE_DB = 30.0  # under the voice
PAUSE_S = 0.5  # beyond the voice on both sides: breath and consonants are in it
MOSTLY_SILENT = 0.5

BAND_HZ = 500.0
CLIFF_DB = 30.0  # from a band down to all that lie beyond the next one: a codec's or a resampler's; no throat's and no microphone's
LOWEST_CLIFF_HZ = 2_000.0  # below, it is a vowel's formants that end
EDGE = 0.95  # of half the sample rate: what is above, the filter before the converter bends
NARROW_HZ = 14_000.0  # a voice that ends lower sounds dull


@dataclass(frozen=True)
class Cleaned:
    """A recording as it is learned from.

    Attributes
    ----------
    audio : float32 [samples]
        Whole chunks at 48 kHz; empty if it is left out.
    track : float32 [samples // HOP, 2]
        f0 in Hz and voicing 0..1.
    bandwidth_hz : float
        Above this it says nothing about the voice.
    problem : str
        One sentence about what is wrong with it and what becomes of it; empty if all is well.
    """

    audio: Floats = field(default_factory=lambda: np.zeros(0, np.float32))
    track: Floats = field(default_factory=lambda: np.zeros((0, 2), np.float32))
    bandwidth_hz: float = SAMPLE_RATE / 2
    problem: str = ""


def clean(path: Path, shown: str, tracker: SwiftF0) -> Cleaned:
    """A recording without what cannot be learned from; in its problem it is called `shown`."""
    try:
        sound, rate = decode(path)
    except ValueError:
        return Cleaned(problem=f"{shown} is left out: it cannot be read as audio")
    sound = np.where(np.abs(sound) < 1e3, sound, np.float32(0))  # neither what is no number nor what is no audio
    audio = np.concatenate(pieces(to_mono(sound, rate)))
    if len(audio) < SHORTEST:
        return Cleaned(problem=f"{shown} is left out: it lasts {len(audio) / SAMPLE_RATE:.1f} s, which is less than a word")
    level = frame_levels_db(audio)
    if level.max() < NOTHING_DB:
        return Cleaned(problem=f"{shown} is left out: it holds no sound")
    faults = []
    if (clipped := clipped_share(sound)) > CLIPPED:
        faults.append(f"{100 * clipped:.1f} % of its samples are clipped, which the voice will learn: record with less gain")
    loud = float(np.percentile(level[level > level.max() - WITHIN_DB], 99))
    if loud < QUIET_DB:
        gain = USUAL_DB - loud
        faults.append(
            f"it is quiet, its loud passages are at {loud:.0f} dBFS where {QUIET_DB:.0f} or more are wanted: it is raised by "
            f"{gain:.0f} dB, and its noise with it"
        )
        audio, level = np.clip(audio * np.float32(10 ** (gain / 20)), -1, 1), level + gain  # a door that slams may be clipped
    elif (peak := np.abs(audio).max()) > 1:
        audio = audio / peak  # samples of a float file, which 16 bits would clip

    track = np.concatenate([np.stack(track_hops(piece, tracker), 1) for piece in pieces(audio)])
    voiced = frame_voicing(track)
    if voiced.sum() / FRAMES_A_SECOND < LEAST_VOICED_S:
        return Cleaned(problem=f"{shown} is left out: no voice is heard in it")
    voice = power_mean_db(level[voiced])
    room = level[~voiced & (level > EMPTY_DB)]
    noise = float(np.percentile(room, 10)) if len(room) > FRAMES_A_SECOND / 2 else -np.inf  # else there is no pause to hear it in
    pause = pauses(level, voiced, min(max(voice - PAUSE_DB, noise + 6), voice - 10))
    if noise > voice - DROWNED_DB or voiced.sum() < LEAST_VOICED * (~pause).sum():
        return Cleaned(problem=f"{shown} is left out: no voice is heard in it")
    if noise > voice - NOISY_DB:
        faults.append(f"its noise is {voice - noise:.0f} dB under the voice where {NOISY_DB:.0f} or more are wanted")
    if pause.mean() > MOSTLY_SILENT:
        faults.append(f"{100 * pause.mean():.0f} % of it is silence, which is cut out")
    kept = np.repeat(~pause, FRAME_HOPS)
    kept = np.append(kept, np.full(len(track) - len(kept), kept[-1]))
    audio, track = audio.reshape(-1, HOP)[kept].ravel(), track[kept]
    problem = f"{shown} is used, but {'; '.join(faults)}" if faults else ""
    return Cleaned(audio, track, bandwidth_hz(audio, rate), problem)


def frame_levels_db(audio: Floats) -> NDArray[np.float64]:
    """Level of each whole frame, dBFS."""
    frames = audio[: len(audio) // FRAME * FRAME].reshape(-1, FRAME)
    return np.asarray(10 * np.log10(np.square(frames, dtype=np.float64).mean(1) + 1e-20))


def frame_voicing(track: Floats) -> NDArray[np.bool_]:
    """Whether each whole frame is voiced, for the most part."""
    return np.asarray(track[: len(track) // FRAME_HOPS * FRAME_HOPS, 1].reshape(-1, FRAME_HOPS).mean(1) > 0.5)


def power_mean_db(level: NDArray[np.float64]) -> float:
    """The level of all frames together."""
    return float(10 * np.log10((10 ** (level / 10)).mean()))


def clipped_share(sound: Floats) -> float:
    """Share of the samples of a sound [channels, samples] that stand, three and more in a row, at their channel's extremes."""
    flat = 0
    for channel in sound:
        for wave in (channel, -channel):
            top = wave.max()
            at_top = wave >= top * (1 - FLAT) if top > 0 else np.zeros(len(wave), bool)
            edges = np.flatnonzero(np.diff(np.concatenate([[False], at_top, [False]])))
            lengths = edges[1::2] - edges[::2]
            flat += int(lengths[lengths >= 3].sum())
    return flat / sound.size


def pauses(level: NDArray[np.float64], voiced: NDArray[np.bool_], below_db: float) -> NDArray[np.bool_]:
    """Frames far from any voice and quieter than `below_db`, at least as many in a row as are kept on both sides of a voice."""
    reach = round(PAUSE_S * FRAMES_A_SECOND)
    near = np.convolve(voiced, np.ones(2 * reach + 1), "same")[: len(voiced)] > 0.5
    quiet = ~near & (level < below_db)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], quiet, [False]])))
    for first, end in zip(edges[::2], edges[1::2], strict=True):
        quiet[first:end] = end - first > reach
    return quiet


def bandwidth_hz(audio: Floats, rate: float) -> float:
    """Up to where audio [samples] at 48 kHz, recorded at `rate` Hz, holds anything: there a codec or a resampler cut it off."""
    recorded = SAMPLE_RATE / 2 if rate >= SAMPLE_RATE else EDGE * rate / 2
    size = 2048
    spectra = np.lib.stride_tricks.sliding_window_view(audio, size)[:: size // 2]
    window = np.hanning(size).astype(np.float32)
    # Block by block: the spectra of half an hour are a gigabyte.
    power = sum(np.square(np.abs(np.fft.rfft(spectra[k : k + 500] * window))).sum(0) for k in range(0, len(spectra), 500))
    band = (np.arange(size // 2) * SAMPLE_RATE / size // BAND_HZ).astype(int)
    level = 10 * np.log10(np.bincount(band, np.asarray(power)[: size // 2]) / np.bincount(band) + 1e-20)
    beyond = np.maximum.accumulate(level[::-1])[::-1][2:]
    cliff = np.flatnonzero((level[:-2] - beyond > CLIFF_DB) & ((np.arange(len(level) - 2) + 1) * BAND_HZ > LOWEST_CLIFF_HZ))
    return float(min(recorded, (cliff[0] + 1) * BAND_HZ)) if len(cliff) else float(recorded)


def narrowness(bandwidths_hz: dict[str, float]) -> str:
    """One sentence about the recordings, each by its name, that end so low that a voice sounds dull; empty if there are none."""
    narrow = {shown: hz for shown, hz in bandwidths_hz.items() if hz < NARROW_HZ}
    if not narrow:
        return ""
    first, more = next(iter(narrow)), len(narrow) - 1
    end = " to ".join(f"{hz / 1000:.1f}" for hz in sorted({min(narrow.values()), max(narrow.values())}))
    who = f"{first} and {more} more of {len(bandwidths_hz)} recordings hold" if more else f"{first} holds"
    return f"{who} nothing above {end} kHz, where the voice learns nothing from {'them' if more else 'it'}"
