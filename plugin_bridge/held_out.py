"""What a new voice makes of its singer's recordings that it was not trained on, in figures, once its training ends.

It takes the pack that is to be played, and what training needs anyway; likeness is told where the extra `evaluate` is installed.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray
from swift_f0 import SwiftF0

from dsp.mel import mel_centres, mel_weights
from dsp.pitch import PitchTrack, compare_pitch
from models.source_filter.data import Recordings, track_hops
from models.source_filter.features import CHUNK, HOP, SAMPLE_RATE
from plugin_bridge.converter import VoiceConverter
from plugin_bridge.evaluate import SAMPLE_RATE as JUDGES_RATE
from plugin_bridge.evaluate import Judge

Floats = NDArray[np.float32]

MOST_CLIPS, MOST_SECONDS = 12, 60.0  # of them all: converted, tracked and compared in some ten seconds
FFT, BANDS = 2048, 80
LOUD_DB, FLOOR_DB = 40.0, 60.0  # under the loudest frame and band: what is compared, and what counts as nothing


@dataclass(frozen=True)
class HeldOut:
    """Figures of conversions to a voice against the recordings of it that they were made of; NaN where there are none.

    Attributes
    ----------
    seconds : float
        Of recordings that were converted.
    pitch_error_cents, octave_errors, voicing_agreement : float
        Of SwiftF0's tracks, see `dsp.pitch.PitchAgreement`.
    spectral_distance_db : float
        Mean distance of mel spectra, where the recording is loud and below its bandwidth.
    speaker_cosine : float
        Resemblyzer's, of the conversions to the recordings; NaN without that library.
    """

    seconds: float
    pitch_error_cents: float
    octave_errors: float
    voicing_agreement: float
    spectral_distance_db: float
    speaker_cosine: float

    def quality(self) -> dict[str, float]:
        """For the voice's card."""
        return {f"held_out_{name}": round(value, 4) for name, value in asdict(self).items() if math.isfinite(value)}

    def __str__(self) -> str:
        told = [
            (self.pitch_error_cents, f"pitch {self.pitch_error_cents:.1f} cents off"),
            (self.octave_errors, f"{100 * self.octave_errors:.1f} % octave errors"),
            (self.voicing_agreement, f"voicing {100 * self.voicing_agreement:.0f} % the same"),
            (self.spectral_distance_db, f"spectra {self.spectral_distance_db:.1f} dB apart"),
            (self.speaker_cosine, f"speaker cosine {self.speaker_cosine:.2f}"),
        ]
        return ", ".join(text for value, text in told if math.isfinite(value))


def judge_held_out(pack: Path, recordings: Recordings) -> HeldOut:
    """Convert held-out recordings, a minute of them at most, with the voice in `pack`, and measure what became of them."""
    converter, tracker = VoiceConverter(str(pack)), SwiftF0(threads=1, spin=False)
    clips = [clip for clip in recordings.clips if clip.held_out]
    clips = clips[:: -(-len(clips) // MOST_CLIPS)]
    longest = int(MOST_SECONDS * SAMPLE_RATE / len(clips)) // CHUNK * CHUNK
    pairs: list[tuple[Floats, Floats]] = []
    tracks: list[tuple[Floats, Floats]] = []
    distances: list[NDArray[np.float64]] = []
    for clip in clips:
        audio, track = recordings.read(clip)
        start = max(0, len(audio) - longest) // 2 // CHUNK * CHUNK
        audio, track = audio[start : start + longest], track[start // HOP : (start + longest) // HOP]
        made = np.asarray(converter(audio, SAMPLE_RATE), np.float32)
        pairs.append((audio, made))
        tracks.append((track, np.stack(track_hops(made, tracker), 1)))
        distances.append(spectral_distances_db(audio, made, clip.bandwidth_hz))
    before, after = (pitch_track(np.concatenate(of)) for of in zip(*tracks, strict=True))
    pitch = compare_pitch(before, after)
    recorded, made = (np.concatenate(of) for of in zip(*pairs, strict=True))
    return HeldOut(
        seconds=len(recorded) / SAMPLE_RATE,
        pitch_error_cents=pitch.median_cents,
        octave_errors=pitch.gross_errors,
        voicing_agreement=pitch.voicing,
        spectral_distance_db=float(np.concatenate(distances).mean()),
        speaker_cosine=speaker_cosine(recorded, made),
    )


def pitch_track(track: Floats) -> PitchTrack:
    """f0 and voicing [hops, 2] as a track."""
    voiced = track[:, 1] > 0.5
    return PitchTrack(np.arange(len(track)) * HOP / SAMPLE_RATE, np.where(voiced, track[:, 0], 0.0).astype(np.float64), voiced)


def spectral_distances_db(recorded: Floats, made: Floats, bandwidth_hz: float) -> NDArray[np.float64]:
    """Mean absolute difference of two mel spectra, frame by frame [loud frames], of audio [n] at 48 kHz."""
    inside = mel_centres(BANDS, 0.0, SAMPLE_RATE / 2) <= bandwidth_hz
    weights = mel_weights(FFT, SAMPLE_RATE, BANDS, 0.0, SAMPLE_RATE / 2)[:, inside]
    window = np.hanning(FFT)
    frames = (np.lib.stride_tricks.sliding_window_view(audio, FFT)[:: FFT // 4] * window for audio in (recorded, made))
    wanted, got = (np.square(np.abs(np.fft.rfft(x))) @ weights for x in frames)
    floor = wanted.max() * 10 ** (-FLOOR_DB / 10)
    loud = wanted.max(1) > wanted.max() * 10 ** (-LOUD_DB / 10)
    distance = np.abs(10 * np.log10((got[loud] + floor) / (wanted[loud] + floor))).mean(1)
    return np.asarray(distance)


def speaker_cosine(recorded: Floats, made: Floats) -> float:
    """How like each other two sounds [n] at 48 kHz are as speakers, -1..1; NaN without a library that tells."""
    try:
        judge = Judge()
    except ImportError:
        return math.nan
    one, other = (judge.speaker(np.asarray(soxr.resample(x, SAMPLE_RATE, JUDGES_RATE), np.float32)) for x in (recorded, made))
    return float(one @ other)
