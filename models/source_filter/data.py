"""Recordings, packed once: audio at 48 kHz and f0 on the hop grid, memory-mapped; and random crops of them.

Packing decodes, resamples and tracks every file once, so that training reads crops without decoding. f0 here comes from
SwiftF0 over the whole file; the converter's own causal tracker takes its place when it runs.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import soxr
from numpy.typing import NDArray
from pedalboard.io import AudioFile
from pydantic import TypeAdapter, ValidationError
from swift_f0 import SwiftF0

from dsp.f0 import fill_unvoiced
from models.replacing import replacing
from models.samples_present import samples_present
from models.schema import first_problem
from models.source_filter.features import CHUNK, HOP, SAMPLE_RATE

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Settings = TypeVar("Settings")
Entry = TypeVar("Entry")

INDEX = "index.json"  # of a packed folder; it comes last
AUDIO_SUFFIXES = {".wav", ".flac", ".ogg", ".mp3", ".aif", ".aiff", ".m4a"}
CONFIDENCE = 0.5  # SwiftF0's probability from which a frame counts as voiced
F0_RANGE_HZ = (60.0, 1100.0)
SHORTEST = SAMPLE_RATE // 2  # shorter is a click or a cough
LONGEST = 30 * SAMPLE_RATE  # an hour in one file still gives clips to hold out
LEAST_OFFSET = 1e-4  # of the mean, -80 dBFS: a good take is learned from as it is


@dataclass(frozen=True)
class Corpus:
    """One folder of recordings. `voice` is the speaker's name; "" makes every file a speaker of its own."""

    folder: str
    voice: str
    hold_out: int = 10  # every n-th clip is kept out of training
    bandwidth_hz: float = 24_000.0  # above this the recording says nothing about the voice


@dataclass(frozen=True)
class Clip:
    """One packed recording: its speaker, where its samples lie, its bandwidth, whether it is held out of training."""

    file: str
    speaker: str
    target: bool
    start: int
    samples: int
    bandwidth_hz: float
    held_out: bool


@dataclass(frozen=True)
class Crop:
    """A batch of crops; hop h of a crop is centred on its sample h * HOP."""

    audio: NDArray[np.float32]  # [batch, samples]
    f0: NDArray[np.float32]  # [batch, hops] Hz, interpolated through unvoiced stretches
    voicing: NDArray[np.float32]  # [batch, hops] 0..1
    speaker: NDArray[np.int64]  # [batch]
    bandwidth_hz: NDArray[np.float32]  # [batch]


def read_table(recipe: Path, name: str) -> Any:
    """The table `name`, or the list of tables, of a recipe (TOML); ValueError, one sentence, if it has none."""
    try:
        with recipe.open("rb") as file:
            return tomllib.load(file)[name]
    except KeyError:
        raise ValueError(f"expected a recipe with a table {name} in {recipe}, found none") from None
    except ValueError as error:
        raise ValueError(f"expected a recipe (TOML) in {recipe}, but it cannot be read: {error}") from None


def read_settings(kind: type[Settings], recipe: Path, *names: str) -> Settings:
    """A recipe's table as a dataclass; of several tables the later ones tell what is different from the first.

    Raises ValueError, one sentence, if something there is missing, not known, or of another type.
    """
    table: dict[str, Any] = {}
    for name in names:
        found = read_table(recipe, name)
        if not isinstance(found, dict):
            raise ValueError(f"expected one table {name} in {recipe}, got {found!r:.60}")
        table |= found
    return _settings(kind, table, f"the table {names[0]} in {recipe}")


def _settings(kind: type[Settings], table: dict[str, Any], where: str) -> Settings:
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(table.keys() - known):
        raise ValueError(f"expected settings that are known in {where}, but there is nothing called {unknown[0]!r}")
    try:
        # By way of JSON: TOML's lists are tuples here, and nothing else is taken for what it is not.
        return TypeAdapter(kind).validate_json(json.dumps(table, default=str), strict=True)
    except ValidationError as error:
        raise ValueError(f"expected every setting in {where}, each of its type, but {first_problem(error)}") from None


def read_corpora(recipe: Path) -> list[Corpus]:
    """The `[[corpus]]` tables of a recipe. Raises ValueError as `read_settings`."""
    corpora = [_settings(Corpus, table, f"the tables corpus in {recipe}") for table in read_table(recipe, "corpus")]
    for corpus in corpora:
        if corpus.hold_out < 2:
            raise ValueError(f"expected a hold_out of at least 2 for {corpus.folder} in {recipe}, got {corpus.hold_out}")
    return corpora


def read_index(packed: Path, kind: type[Entry]) -> list[Entry]:
    """What is in a packed folder; ValueError, one sentence, if that is nothing, or was packed for other trainings."""
    try:
        return [kind(**entry) for entry in json.loads((packed / INDEX).read_text())]
    except FileNotFoundError:
        raise ValueError(f"expected packed recordings in {packed}, found none") from None
    except (TypeError, ValueError):
        problem = "they are of another engine's training, which wants a folder of its own"
        raise ValueError(f"expected recordings packed as a {kind.__name__.lower()} each in {packed}, but {problem}") from None


def audio_files(folder: Path) -> list[Path]:
    """All recordings below a folder, in a fixed order."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES and p.is_file())


def decode(path: Path) -> tuple[NDArray[np.float32], float]:
    """A recording as it is, float32 [channels, samples], and its rate in Hz; ValueError, one sentence, if it is not readable."""
    try:
        with AudioFile(str(path)) as file:
            return file.read(min(file.frames, samples_present(path))), float(file.samplerate)
    except (ValueError, RuntimeError, OSError) as error:
        raise ValueError(f"expected a readable recording, but {path} is not one ({error})") from None


def load_mono(path: Path) -> NDArray[np.float32]:
    """A recording as float32 [samples] at 48 kHz, channels averaged; ValueError, one sentence, if it is not readable."""
    return to_mono(*decode(path))


def to_mono(sound: NDArray[np.float32], rate: float) -> NDArray[np.float32]:
    """Float32 [channels, samples] at any rate as float32 [samples] at 48 kHz, channels averaged, without offset."""
    audio = sound.mean(0, dtype=np.float32)
    if rate != SAMPLE_RATE:
        audio = soxr.resample(audio, rate, SAMPLE_RATE, quality="VHQ")
    audio = np.nan_to_num(np.asarray(audio, dtype=np.float32))
    offset = audio.mean(dtype=np.float64) if len(audio) else 0.0
    return audio - np.float32(offset) if abs(offset) > LEAST_OFFSET else audio


def pieces(audio: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Cut a recording into equal pieces of at most `LONGEST` samples, each a whole number of chunks."""
    count = max(1, -(-len(audio) // LONGEST))
    length = len(audio) // count // CHUNK * CHUNK
    return [audio[k * length : (k + 1) * length] for k in range(count)]


def track_hops(audio: NDArray[np.float32], tracker: SwiftF0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(f0 in Hz, voicing 0..1) at the centre of every hop of 48 kHz audio, by SwiftF0."""
    hops = len(audio) // HOP
    at16 = soxr.resample(audio, SAMPLE_RATE, 16_000)
    result = tracker.detect(at16, 16_000, fmin=F0_RANGE_HZ[0], fmax=F0_RANGE_HZ[1])
    seconds = np.asarray(result.timestamps, dtype=np.float64)
    voiced = np.asarray(result.confidence) >= CONFIDENCE
    filled = fill_unvoiced(np.asarray(result.pitch_hz, dtype=np.float64), voiced)
    grid = np.arange(hops) * HOP / SAMPLE_RATE
    f0 = np.exp(np.interp(grid, seconds, np.log(filled)))
    voicing = np.interp(grid, seconds, voiced.astype(np.float64))
    return f0.astype(np.float32), voicing.astype(np.float32)


class Packer:
    """Packs pieces of recordings, one after the other, into the folder `out`; the index comes when the `with` block ends well.

    Attributes
    ----------
    clips : list of Clip
        What the index will hold.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        self.clips: list[Clip] = []
        self._samples = 0

    def __enter__(self) -> Packer:
        self._audio, self._f0 = ((self._out / name).open("wb") for name in ("audio.i16", "f0.f32"))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._audio.close()
        self._f0.close()
        if error is None:
            with replacing(self._out / INDEX) as file:
                file.write(json.dumps([asdict(clip) for clip in self.clips], indent=0).encode())

    def add(
        self,
        audio: NDArray[np.float32],
        track: NDArray[np.float32],
        file: str,
        speaker: str,
        target: bool,
        bandwidth_hz: float,
        held_out: bool,
    ) -> None:
        """A piece: audio [samples], whole chunks at 48 kHz; its f0 in Hz and voicing [hops, 2]; the rest as `Clip` has it."""
        (np.clip(audio, -1, 1) * 32767).astype("<i2").tofile(self._audio)
        track.astype("<f4").tofile(self._f0)
        self.clips.append(Clip(file, speaker, target, self._samples, len(audio), bandwidth_hz, held_out))
        self._samples += len(audio)


def pack(root: Path, corpora: list[Corpus], out: Path, report: Callable[[int, int], None] | None = None) -> None:
    """Pack the corpora (folders below `root`) into the folder `out`; does nothing if `out` is complete.

    Raises ValueError, one sentence, where a folder has no audio, a file cannot be read, or a voice has too few clips.
    """
    if (out / INDEX).exists():
        return
    out.mkdir(parents=True, exist_ok=True)
    jobs = [(corpus, path) for corpus in corpora for path in audio_files(root / corpus.folder)]
    for corpus in corpora:
        if not any(job[0] is corpus for job in jobs):
            raise ValueError(f"expected recordings in {root / corpus.folder}, found no audio file there")
    tracker = SwiftF0(threads=1, spin=False)
    numbers = dict.fromkeys(corpora, 0)
    with Packer(out) as packer:
        for done, (corpus, path) in enumerate(jobs):
            for audio in pieces(load_mono(path)):
                numbers[corpus] += 1
                if len(audio) < SHORTEST:
                    continue
                speaker = corpus.voice or f"{corpus.folder}/{path.stem}"
                held_out = numbers[corpus] % corpus.hold_out == 0
                about = (str(path.relative_to(root)), speaker, bool(corpus.voice), corpus.bandwidth_hz, held_out)
                packer.add(audio, np.stack(track_hops(audio, tracker), 1), *about)
            if report:
                report(done + 1, len(jobs))
        for corpus in corpora:
            apart = [clip.held_out for clip in packer.clips if clip.speaker == corpus.voice]
            if corpus.voice and (all(apart) or not any(apart)):
                wanted = f"clips of {corpus.voice} to train with, and one in {corpus.hold_out} to hold out"
                raise ValueError(f"expected {wanted}, found {len(apart)} clips in {root / corpus.folder}")


def telling(what: str) -> Callable[[int, int], None]:
    """What prints now and then how far a packing is, in recordings or whatever `what` is."""
    began = time.monotonic()

    def report(done: int, of: int) -> None:
        if done % 100 == 0 or done == of:
            print(f"{what} {done} of {of}, {time.monotonic() - began:.0f} s", flush=True)

    return report


class Recordings:
    """A packed folder. Speakers are numbered: target voices first, in order of appearance, then the helping speakers."""

    def __init__(self, packed: Path) -> None:
        self.clips = read_index(packed, Clip)
        self._audio = np.memmap(packed / "audio.i16", dtype="<i2", mode="r")
        self._f0 = np.memmap(packed / "f0.f32", dtype="<f4", mode="r").reshape(-1, 2)
        self.voices = list(dict.fromkeys(c.speaker for c in self.clips if c.target))
        self.speakers = self.voices + list(dict.fromkeys(c.speaker for c in self.clips if not c.target))

    def f0_range_hz(self, voice: str) -> tuple[float, float]:
        """1st and 99th percentile of the voice's voiced f0; ValueError, one sentence, if no pitch was found in it."""
        parts = [self._f0[c.start // HOP : (c.start + c.samples) // HOP] for c in self.clips if c.speaker == voice]
        track = np.concatenate(parts)
        voiced = track[track[:, 1] > 0.5, 0]
        if not len(voiced):
            raise ValueError(f"expected a voice in the recordings of {voice}, found no pitch anywhere")
        low, high = np.percentile(voiced, [1, 99])
        return float(low), float(high)

    def read(self, clip: Clip) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(audio [samples], f0 in Hz and voicing [hops, 2]) of a clip, the whole of it."""
        first, end = clip.start, clip.start + clip.samples
        return self._audio[first:end].astype(np.float32) / np.float32(32767), np.array(self._f0[first // HOP : end // HOP])

    def crop(self, rng: np.random.Generator, batch: int, chunks: int, helpers: float, held_out: bool = False) -> Crop:
        """`batch` random crops of `chunks` chunks: a share `helpers` from helping speakers, the rest evenly over the voices.

        Within a voice every second of its recordings is equally likely. A shorter recording is followed by silence.
        """
        samples = chunks * CHUNK
        crop = Crop(
            np.zeros((batch, samples), np.float32),
            np.full((batch, samples // HOP), 150.0, np.float32),
            np.zeros((batch, samples // HOP), np.float32),
            np.zeros(batch, np.int64),
            np.full(batch, SAMPLE_RATE / 2, np.float32),
        )
        for row, clip in enumerate(self._draw(rng, batch, helpers, held_out)):
            room = max(0, clip.samples - samples) // HOP
            first = clip.start + int(rng.integers(room + 1)) * HOP
            length = min(samples, clip.start + clip.samples - first)
            crop.audio[row, :length] = self._audio[first : first + length].astype(np.float32) / 32767
            track = self._f0[first // HOP : (first + length) // HOP]
            crop.f0[row, : len(track)], crop.voicing[row, : len(track)] = track[:, 0], track[:, 1]
            crop.f0[row, len(track) :] = track[-1, 0]
            crop.speaker[row] = self.speakers.index(clip.speaker)
            crop.bandwidth_hz[row] = clip.bandwidth_hz
        return crop

    def _draw(self, rng: np.random.Generator, batch: int, helpers: float, held_out: bool) -> Iterator[Clip]:
        assisting = [c for c in self.clips if not c.target and c.held_out == held_out]
        for row in range(batch):
            if assisting and row < round(batch * helpers):
                pool = assisting
            else:
                voice = self.voices[int(rng.integers(len(self.voices)))]
                pool = [c for c in self.clips if c.speaker == voice and c.held_out == held_out]
            length = np.array([c.samples for c in pool], np.float64)
            yield pool[int(rng.choice(len(pool), p=length / length.sum()))]
