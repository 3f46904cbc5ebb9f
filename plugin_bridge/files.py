"""Files as the command line meets them: found in folders, paired with what becomes of them, never half-written."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

from pedalboard.io import AudioFile, WriteableAudioFile, get_supported_read_formats

from models.replacing import replacing as replacing_by

# Formats that are written without a loss or padding, so that rate, channels and length stay what they were.
LOSSLESS = (".wav", ".flac", ".aiff", ".aif")
WRITABLE = (*LOSSLESS, ".ogg", ".mp3")
BIT_DEPTH = 24
MOST_CHANNELS = {"mp3": 2, "flac": 8, "ogg": 255}  # of the formats that have a limit


_numbers = itertools.count()  # several files may be on their way to one folder


class FileError(ValueError):
    """A file cannot be read or written as asked; the message is one sentence that names it."""


@dataclass(frozen=True)
class Job:
    """One recording and where its conversion goes."""

    source: Path
    target: Path


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes `path`'s place when the block ends well, and vanishes when it does not.

    Folders that are missing on the way to it are made.

    Raises
    ------
    FileError
        If anything about writing fails, as on a full disk; `path` is then as it was.
    """
    try:
        if path.is_dir():
            raise FileError(f"{path} is a folder, so no file can take its place")
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"{path} cannot be written: {error.strerror or error}") from None
    try:
        with replacing_by(path, path.with_name(f".plugin-bridge-{os.getpid()}-{next(_numbers)}.part")) as file:
            yield file
    except OSError as error:
        raise FileError(str(error)) from None


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A folder for work on what becomes `path`, on the same disk; it vanishes when the block ends.

    Raises
    ------
    FileError
        If none can be made there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = TemporaryDirectory(prefix=".plugin-bridge-", dir=path.parent)
    except OSError as error:
        raise FileError(f"{path} cannot be written: {error.strerror or error}") from None
    with folder as made:
        name = str(Path(made))
        try:
            yield Path(name)
        except FileError as error:
            # A file in here is one that nobody asked for: what was asked for cannot be.
            raise FileError(re.sub(rf"{re.escape(name)}[/\\][\w.]+", lambda _: str(path), str(error))) from None


def open_writer(
    file: BinaryIO, path: Path, sample_rate: int, channels: int, bit_depth: int = BIT_DEPTH
) -> WriteableAudioFile:
    """Write audio to `file`, which will be `path`, in the format of its suffix.

    Raises
    ------
    FileError
        If the format has no such rate or channel count.
    """
    most = MOST_CHANNELS.get(format_of(path), channels)
    if channels > most:  # which `AudioFile` puts down to the bit depth
        raise FileError(f"{path} cannot hold {channels} channels at {sample_rate} Hz: {format_of(path)} files have at most {most}")
    try:
        return AudioFile(
            file, "w", samplerate=sample_rate, num_channels=channels, bit_depth=bit_depth, format=format_of(path)
        )
    except (ValueError, RuntimeError) as error:
        raise FileError(f"{path} cannot hold {channels} channels at {sample_rate} Hz: {str(error).rstrip('.')}") from None


def plan(
    inputs: Sequence[Path],
    output: Path,
    *,
    read: Sequence[Path] = (),
    written: Sequence[Path] = (),
    others: Sequence[Path] = (),
) -> tuple[list[Job], list[str]]:
    """What is to be converted into what, and one sentence for each input of which nothing can come.

    A folder stands for all the audio in it, in its subfolders too, whose tree is kept. One file goes to the file
    `output`, or into it if it is a folder; several go into the folder `output`, as the format they have if that is
    lossless, else as WAV. What has no suffix is a folder.

    `read` and `written` are what else goes into the run and comes out of it: nothing is written over what is read, nor over
    what else is written. `others` are folders for other runs' conversions, which are no recordings either.

    Raises
    ------
    FileError
        If `written` would be.
    """
    jobs: list[Job] = []
    problems: list[str] = []
    # Asked so, what we have no access to is not there, and is told when it is opened.
    isdir, isfile = os.path.isdir, os.path.isfile
    into_folder = len(inputs) > 1 or isdir(inputs[0]) or isdir(output) or not output.suffix
    if into_folder and isfile(output):
        return [], [f"{output} is a file, but several recordings need a folder to go to"]
    for source in inputs:
        if isdir(source):
            closed: list[OSError] = []
            found = list(audio_below(source, output, closed.append, others))
            problems += [f"the folder {error.filename} cannot be read: {error.strerror}" for error in closed]
            if not found and not closed:
                problems.append(f"the folder {source} holds no audio files ({listed(readable_suffixes())})")
            # Of several folders each keeps its name; of one, the contents are what was asked for.
            root = output / source.resolve().name if len(inputs) > 1 else output
            jobs += [Job(path, _with_lossless_suffix(root / path.relative_to(source))) for path in found]
        elif into_folder:
            jobs.append(Job(source, _with_lossless_suffix(output / source.name)))
        else:
            jobs.append(Job(source, output))
    heard = {_identity(path): path for path in (*read, *(job.source for job in jobs))}
    good: list[Job] = []
    taken: dict[object, Path] = {}
    for job in jobs:
        where = _identity(job.target)
        try:
            check_format(job.target)
        except FileError as error:
            problems.append(str(error))
            continue
        if where in heard:
            problems.append(_over_input(heard[where]))
        elif where in taken:
            problems.append(f"{job.source} would be written to {job.target}, to which {taken[where]} goes already")
        else:
            taken[where] = job.source
            good.append(job)
    check_apart([*(job.target for job in good), *written], list(heard.values()))
    return good, problems


def readable_suffixes() -> list[str]:
    """Suffixes such as ".wav" of the formats that can be read on this system."""
    return sorted(get_supported_read_formats())


def format_of(path: Path) -> str:
    """The format that a suffix of `WRITABLE` stands for, as `pedalboard.io` names it."""
    suffix = path.suffix.lower()
    return "aiff" if suffix == ".aif" else suffix.lstrip(".")


def check_format(target: Path) -> None:
    """FileError unless the suffix names a format that can be written."""
    if target.suffix.lower() not in WRITABLE:
        raise FileError(f"{target} needs a suffix that names its format ({listed(WRITABLE)}), not {target.suffix!r}")


def check_writable(target: Path, sample_rate: int, channels: int) -> None:
    """FileError, as from `open_writer`, before the work if its format has no such rate or channel count."""
    with open_writer(BytesIO(), target, sample_rate, channels):
        pass


def check_apart(written: Iterable[Path], read: Iterable[Path]) -> None:
    """FileError if what is to be written is what is read, or is to be written twice."""
    heard = {_identity(path): path for path in read}
    taken = set()
    for path in written:
        where = _identity(path)
        if where in heard:
            raise FileError(_over_input(heard[where]))
        if where in taken:
            raise FileError(f"{path} would be written twice; give each output a name of its own")
        taken.add(where)


def _over_input(path: Path) -> str:
    return f"{path} is both input and output; give the output another name or folder"


def _identity(path: Path) -> object:
    """The same for all paths to one file: through links, and through folders that writing it would make first."""
    real = os.path.realpath(path)
    try:
        found = os.stat(real)
    except OSError:
        return os.path.normcase(real)
    return found.st_dev, found.st_ino


def audio_below(
    folder: Path, output: Path, closed: Callable[[OSError], object] | None = None, others: Sequence[Path] = ()
) -> Iterator[Path]:
    """Audio files in `folder` and below, sorted; without hidden ones, and without what earlier runs put in `output` and `others`.

    `closed` is called for each folder that cannot be read.
    """
    suffixes = set(readable_suffixes())
    own = {path.resolve() for path in (output, *others)}
    for where, folders, names in os.walk(folder, onerror=closed):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and Path(where, name).resolve() not in own)
        for name in sorted(names):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes:
                yield Path(where, name)


def _with_lossless_suffix(path: Path) -> Path:
    return path if path.suffix.lower() in LOSSLESS else path.with_suffix(".wav")


def listed(suffixes: Sequence[str]) -> str:
    """Suffixes for people: "wav, flac"."""
    return ", ".join(suffix.lstrip(".") for suffix in suffixes)
