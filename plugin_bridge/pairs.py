"""Parallel recordings for training LLVC: each recording cut into clips, and the same clips in a voice of ours, its teacher."""

from __future__ import annotations

import glob
import hashlib
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pedalboard.io import AudioFile
from pydantic import ValidationError

from models.llvc.pairs import CONVERTED, MAX_CARD_BYTES, ORIGINAL, TEACHER
from models.pack import STREAM_MODEL
from models.schema import Line, Schema, first_problem, read_bounded
from plugin_bridge.convert import Settings, convert_file
from plugin_bridge.files import audio_below, listed, readable_suffixes, replacing
from plugin_bridge.recording import load_mono
from plugin_bridge.voices import find_voice
from plugin_bridge.workers import spread

CLIP_S = 4.096  # 65,536 samples at 16 kHz, as the authors train with
SHORTEST_S = 1.0  # what is left of a recording after its last whole clip, and shorter, is dropped
ONE_IN = 20  # speakers go to dev, and of the others' recordings as many to val
HIGHEST_PEAK = 0.99
MAKING = "pairs.json"  # beside the teacher's card: with what the pairs were made


class Making(Schema):
    """What pairs were made with; all that makes them what they are besides the recordings. `model` is the sha256 of the voice's."""

    voice: Line
    model: Line
    sample_rate: int
    transpose: float | Literal["auto"]

    def __str__(self) -> str:
        transposed = "auto" if self.transpose == "auto" else f"{self.transpose:g}"
        return f"of {self.voice} ({self.model[:8]}) at {self.sample_rate} Hz with the transposition {transposed}"


@dataclass(frozen=True)
class PairJob:
    """One recording, and the folder and name of its clips."""

    source: Path
    folder: Path
    stem: str

    def clip(self, number: int, kind: str) -> Path:
        return self.folder / f"{self.stem}_{number:03d}{kind}"


def plan_pairs(folder: Path, out: Path) -> list[PairJob]:
    """Every recording below `folder`, in `out`/train, val or dev: dev has speakers of its own, val the same as train.

    A speaker is a folder directly below `folder`, or the part of a file's name before its first `-`, as in LibriSpeech. What goes
    where hangs on the names alone, so the same folder is always cut alike.

    Raises
    ------
    ValueError
        If `folder` is none, or does not hold at least two recordings, or is `out`.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder with recordings")
    if out.resolve() == folder.resolve():
        raise ValueError(f"the pairs need another folder than their recordings, {folder}")
    sources = list(audio_below(folder, out))
    if not sources:
        raise ValueError(f"the folder {folder} holds no audio files ({listed(readable_suffixes())})")
    if len(sources) == 1:
        raise ValueError(f"expected recordings to learn from and to check with in {folder}, found one")
    names = {source: str(source.relative_to(folder)) for source in sources}
    speakers: dict[str, list[Path]] = {}
    for source, name in names.items():
        parts = Path(name).parts
        speakers.setdefault(parts[0] if len(parts) > 1 else source.stem.split("-")[0], []).append(source)
    in_order = sorted(speakers, key=_shuffled)
    # With one or two speakers nobody can be spared.
    apart = in_order[: math.ceil(len(in_order) / ONE_IN)] if len(in_order) > 2 else []
    dev = {source for speaker in apart for source in speakers[speaker]}
    rest = sorted((source for source in sources if source not in dev), key=lambda source: _shuffled(names[source]))
    val = set(rest[: math.ceil(len(rest) / ONE_IN)]) if len(rest) > 1 else set()
    planned = []
    for source in sources:
        split = "dev" if source in dev else "val" if source in val else "train"
        planned.append(PairJob(source, out / split, f"{source.stem}-{_shuffled(names[source])[:8]}"))
    return planned


def make_pairs(
    voice: str, folder: Path, out: Path, *, sample_rate: int, transpose: float | None, workers: int
) -> Iterator[tuple[PairJob, int, str | None]]:
    """Make the pairs, `workers` recordings at a time; yields each job as it ends, its number of clips, and what went wrong if so.

    What an earlier run finished is kept. `transpose` is in semitones; None moves each recording into the voice's range.

    Raises
    ------
    ValueError
        For an unknown voice, a transposition out of range, a folder without recordings, or an `out` that holds pairs that were made
        otherwise.
    ChildProcessError
        If the system ends a worker.
    """
    jobs = plan_pairs(folder, out)
    settings = Settings(voice, transpose="auto" if transpose is None else transpose)
    settings.check()
    address = find_voice(voice)
    model = address.pack.manifest.members[STREAM_MODEL]
    making = Making(voice=address.card.name, model=model, sample_rate=sample_rate, transpose=settings.transpose)
    check_pairs_of(out, making)
    for name, about in ((MAKING, making), (TEACHER, address.card)):
        with replacing(out / name) as file:
            file.write(about.model_dump_json(indent=2).encode())
    work = partial(make_pair, settings=settings, sample_rate=sample_rate)
    for job, made in spread(work, jobs, workers):
        try:
            yield job, made.result(), None
        except (ValueError, OSError) as error:
            yield job, 0, str(error)


def check_pairs_of(out: Path, making: Making) -> None:
    """ValueError, one sentence, if `out` holds pairs that were made otherwise: what is there would be kept beside the new ones."""
    own = f"those {making} want a folder of their own"
    try:
        there = Making.model_validate_json(read_bounded(out / MAKING, MAX_CARD_BYTES))
    except FileNotFoundError:
        if (out / TEACHER).exists():
            raise ValueError(f"{out} holds pairs, but no {MAKING} that tells with what they were made: {own}") from None
        return
    except ValidationError as error:
        problem = first_problem(error)
        raise ValueError(f"{out / MAKING} does not tell with what the pairs were made ({problem}): {own}") from None
    if there != making:
        raise ValueError(f"{out} holds pairs {there}: {own}")


def make_pair(job: PairJob, settings: Settings, sample_rate: int) -> int:
    """Convert one recording and write its clips; returns how many there are. Does nothing if they are there."""
    if job.clip(0, ORIGINAL).exists():
        return len(list(job.folder.glob(f"{glob.escape(job.stem)}_*{ORIGINAL}")))
    job.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".pair-", dir=job.folder) as folder:
        converted = Path(folder) / "converted.wav"
        convert_file(job.source, converted, settings)
        both = np.stack([load_mono(path, sample_rate) for path in (job.source, converted)])
    peak = float(np.abs(both).max(initial=0.0))
    if peak > HIGHEST_PEAK:  # both alike, for what is louder in one is to be louder in the other
        both *= HIGHEST_PEAK / peak
    length = round(CLIP_S * sample_rate)
    starts = [start for start in range(0, both.shape[1], length) if start == 0 or both.shape[1] - start >= SHORTEST_S * sample_rate]
    # The first clip's original comes last: it tells that all are there.
    for number in reversed(range(len(starts))):
        for kind, audio in ((CONVERTED, both[1]), (ORIGINAL, both[0])):
            write_clip(job.clip(number, kind), audio[starts[number] :][:length], sample_rate)
    return len(starts)


def write_clip(path: Path, audio: NDArray[np.float32], sample_rate: int) -> None:
    """A clip as 16-bit WAV."""
    with replacing(path) as file, AudioFile(file, "w", sample_rate, 1, bit_depth=16, format="wav") as writer:
        writer.write(audio[None])


def _shuffled(name: str) -> str:
    """An order of names that says nothing about them, and is the same everywhere."""
    return hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()
