"""The song engine's sizes and steps side by side, as in LHQ-SVC's own table: size, reconstruction, likeness, quality, speed.

STOI and PESQ hold a copy against its recording, sample by sample: a recording of the voice, to its spectrogram and back. They
judge the vocoder, for any number of steps. Likeness, quality and pitch are of conversions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from dsp.f0 import track_f0
from dsp.resampling import resample
from models.lhq.mel import log_mel, normalise
from models.lhq.song import SAMPLE_RATE as SONG_RATE
from models.lhq.song import SongModel
from models.pack import Size
from plugin_bridge.bench_song import measure_song
from plugin_bridge.convert import Settings
from plugin_bridge.evaluate import Judge, conversions, evaluate
from plugin_bridge.files import FileError, audio_below
from plugin_bridge.recording import load_mono
from plugin_bridge.voices import voice_target, voice_text

STEPS = (1, 2, 4, 16)
THREADS = 2
COLUMNS = ("Size", "Steps", "MB", "STOI", "PESQ", "Speaker cosine", "DNSMOS", "Cents", "x real time")
PESQ_RATE = 16_000  # of its wide band
PIECE = 10 * SONG_RATE  # PESQ is made for sentences of some seconds
FAINTEST = 1e-3  # root mean square of a piece that says anything about a voice


@dataclass(frozen=True)
class SongFigures:
    """One size of the engine at one number of steps; NaN where there is nothing to measure, or nothing to measure it with.

    Attributes
    ----------
    megabytes : float
        All networks of a conversion, as stored.
    stoi, pesq : float
        Means of short-time intelligibility (Taal et al. 2011) and of wide-band PESQ (ITU-T P.862.2), over copies of the references.
    speaker_cosine, dnsmos, cents : float
        Means over the conversions, as `evaluate` has them.
    times_real_time : float
        From file to file, on two threads.
    """

    size: Size
    steps: int
    megabytes: float
    stoi: float
    pesq: float
    speaker_cosine: float
    dnsmos: float
    cents: float
    times_real_time: float

    def as_json(self) -> dict[str, str | float | None]:
        """Ready for JSON, which knows no NaN."""
        values: dict[str, str | float] = asdict(self)
        return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in values.items()}

    def row(self) -> tuple[str, ...]:
        """For `COLUMNS`."""
        measured = (
            (self.stoi, "{:.2f}"),
            (self.pesq, "{:.2f}"),
            (self.speaker_cosine, "{:.3f}"),
            (self.dnsmos, "{:.2f}"),
            (self.cents, "{:.1f}"),
        )
        cells = ("-" if math.isnan(value) else form.format(value) for value, form in measured)
        return (self.size, str(self.steps), f"{self.megabytes:.1f}", *cells, f"{self.times_real_time:.1f}")


def measure_songs(
    settings: Settings,
    folder: Path,
    out: Path,
    refs: Path,
    *,
    dnsmos: Path | None = None,
    limit: int | None = None,
    seconds: float = 60.0,
    done: Callable[[SongFigures], None] = lambda figures: None,
) -> tuple[list[SongFigures], list[str]]:
    """Measure each size that the voice's pack has, at 1, 2, 4 and 16 steps; and a sentence for each recording that could not be.

    Parameters
    ----------
    settings
        The voice, and how to convert to it.
    folder, out, refs, dnsmos, limit
        As for `evaluate`; each row's conversions, figures and page go into a folder of their own in `out`.
    seconds
        Length of the song on which the speed is measured.
    done
        Called with each row.

    Raises
    ------
    ImportError
        Naming the library that is missing.
    ValueError
        As `evaluate`.
    """
    pack = voice_target(settings.voice).pack
    references = list(audio_below(refs, out, others=conversions(out)))
    if not references:
        raise FileError(f"the folder {refs} holds no recordings of the target")
    judge = Judge(dnsmos)
    sizes = [size for size in get_args(Size) if size in pack.manifest.songs]
    rows, problems = [], []
    for size in sizes or ["lhq"]:  # a pack without songs is told of by the first
        stoi, pesq = measure_copies(pack.song_model(size), references)
        for steps in STEPS:
            wanted = replace(settings, engine="song", size=size, steps=steps)
            evaluation = evaluate(wanted, folder, out / f"{size}-{steps}", refs=refs, limit=limit, judge=judge, home=out)
            mean = evaluation.mean
            problems += [problem for problem in evaluation.problems if problem not in problems]  # each row meets the same
            speed = measure_song(voice_text(settings.voice), size, seconds, (THREADS,), steps)
            row = SongFigures(
                size=size,
                steps=steps,
                megabytes=sum(len(pack.read(name)) for name in pack.manifest.songs[size].values()) / 1e6,
                stoi=stoi,
                pesq=pesq,
                speaker_cosine=mean.cosine_target,
                dnsmos=mean.dnsmos,
                cents=mean.pitch_error_cents,
                times_real_time=1 / speed["threads"][str(THREADS)]["share_of_length"],
            )
            rows.append(row)
            done(row)
    return rows, problems


def measure_copies(model: SongModel, references: Sequence[Path]) -> tuple[float, float]:
    """(STOI, PESQ), means over the recordings, each a mean over its pieces; NaN if nothing in them can be read and measured.

    Raises
    ------
    ImportError
        Naming the library that is missing.
    """
    from pesq import PesqError, pesq
    from pystoi import stoi

    figures = []
    for path in references:
        try:
            audio = load_mono(path, SONG_RATE)
        except FileError:  # told of where the target is heard
            continue
        found = []
        for piece, copy in copies(model, audio):
            narrow = (resample(x, SONG_RATE, PESQ_RATE) for x in (piece, copy))
            try:
                found.append((float(stoi(piece, copy, SONG_RATE)), float(pesq(PESQ_RATE, *narrow, "wb"))))
            except PesqError:
                continue  # it hears no speech in it, or too little
        if found:
            figures.append(np.mean(found, axis=0))
    means = np.mean(figures, axis=0) if figures else (math.nan, math.nan)
    return float(means[0]), float(means[1])


def copies(model: SongModel, audio: NDArray[np.float32]) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Pieces of at most 10 s of audio [n] at 40 kHz that are not silent, each with its copy."""
    for piece in np.array_split(audio, max(1, -(-len(audio) // PIECE))):
        if not len(piece) or np.sqrt(np.mean(np.square(piece))) < FAINTEST:
            continue
        pitch = track_f0(piece, SONG_RATE, lasting=True)  # as a song has it
        copy = model.copy(normalise(log_mel(piece)), pitch.hz, pitch.voiced)
        yield piece, copy[: len(piece)]
