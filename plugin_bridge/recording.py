"""Recordings opened for reading: there, readable, as long as their files really are, and undamaged as far as they tell."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pedalboard.io import AudioFile, ReadableAudioFile

from models.samples_present import samples_present
from plugin_bridge.files import FileError, listed, readable_suffixes

BLOCK_SAMPLES = 1 << 16  # a read: long enough that Python's cost vanishes, 0.5 MiB in stereo
LOUDEST = 1e3  # 60 dB over full scale: no level of audio, but a fault


class Recording:
    """An opened audio file.

    Attributes
    ----------
    path : Path
    sample_rate : float
        In Hz.
    channels : int
    samples : int
        That are there, in each channel.
    promised : int
        That the header speaks of: more than `samples` if the file was cut short, or written to a pipe.
    """

    def __init__(self, path: Path, audio: ReadableAudioFile) -> None:
        self.path = path
        self.sample_rate = audio.samplerate
        self.channels = audio.num_channels
        self.promised = audio.frames
        # The decoder fills what is missing with silence, hours of it after a header that does not know the length.
        self.samples = min(audio.frames, samples_present(path))
        self._audio = audio

    def read(self, start: int, length: int) -> NDArray[np.float32]:
        """Samples [channels, n] from `start` on, up to `length` of them.

        Raises
        ------
        FileError
            If the file is damaged there.
        """
        length = min(length, self.samples - start)
        if length <= 0:
            return np.empty((self.channels, 0), np.float32)
        try:
            if self._audio.tell() != start:
                self._audio.seek(start)
            return self._audio.read(length)
        except RuntimeError as error:
            raise FileError(f"{self.path} is damaged at {start / self.sample_rate:.1f} s: {error}") from None

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """All of it, as blocks [channels, n] of up to 65536 samples.

        Raises
        ------
        FileError
            If it is damaged; a FLAC file that does not add up to its checksum says so after its last block.
        """
        checksum = _flac_checksum(self.path)
        digest = hashlib.md5(usedforsecurity=False)
        start = 0
        while start < self.samples:
            block = self.read(start, BLOCK_SAMPLES)
            if not block.shape[1]:
                break  # shorter than even the file's size promised, as a cut MP3 may be
            if checksum:
                digest.update(_as_flac_counts(block, checksum.bits))
            start += block.shape[1]
            yield block
        if checksum and digest.digest() != checksum.md5:
            raise FileError(f"{self.path} is damaged: its audio does not add up to the checksum it was written with")


@contextmanager
def open_recording(path: Path) -> Iterator[Recording]:
    """Open an audio file of any format that can be read.

    Raises
    ------
    FileError
        If it is not there, no audio file, or has no samples.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise FileError(f"there is no file {path}") from None
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror or error}") from None
    if stat.S_ISDIR(mode):
        raise FileError(f"{path} is a folder, not an audio file")
    if not stat.S_ISREG(mode):
        raise FileError(f"{path} is not a regular file")  # a pipe or a device might never end
    with ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("rb"))
            if not file.read(1):
                raise FileError(f"{path} is an empty file, without any audio")
        except OSError as error:
            raise FileError(f"{path} cannot be read: {error.strerror or error}") from None
        try:
            try:
                audio = AudioFile(str(path))  # by name: some systems read some formats only so
            except TypeError:  # the name's bytes are no text
                file.seek(0)
                audio = AudioFile(file)
        except (ValueError, RuntimeError):
            formats = listed(readable_suffixes())
            raise FileError(f"{path} holds no audio in a format that can be read ({formats})") from None
        recording = Recording(path, stack.enter_context(audio))
        if not (recording.samples and recording.channels):
            raise FileError(f"{path} is an audio file of 0 samples: there is nothing to convert")
        yield recording


def load_mono(path: Path, sample_rate: int) -> NDArray[np.float32]:
    """A recording's channels averaged, [n], at another rate; what goes through this together stays aligned. Needs soxr.

    Samples that are no audio are silenced.

    Raises
    ------
    FileError
        If it is not there, damaged, or too short to leave a sample at that rate.
    """
    import soxr

    with open_recording(path) as recording:
        audio = np.concatenate([np.zeros(0, np.float32), *(block.mean(axis=0) for block in recording.blocks())])
        resampled = np.asarray(soxr.resample(audible(audio), recording.sample_rate, sample_rate, quality="VHQ"), dtype=np.float32)
    if not len(resampled):
        raise FileError(f"{path} is too short to be taken to {sample_rate} Hz")
    return resampled


def audible(audio: NDArray[np.float32]) -> NDArray[np.float32]:
    """`audio`, with silence for samples that are not finite or beyond any level of audio."""
    # Not clipped to a level: one of them would make all of a mix softer.
    good = np.abs(audio) < LOUDEST
    return audio if good.all() else np.where(good, audio, np.float32(0))


class _FlacChecksum(NamedTuple):
    bits: int
    md5: bytes


def _flac_checksum(path: Path) -> _FlacChecksum | None:
    """The checksum of its samples that a FLAC file carries (RFC 9639, 8.2), if it does."""
    with path.open("rb") as file:
        head = file.read(42)
    if len(head) < 42 or head[:4] != b"fLaC" or head[4] & 0x7F:
        return None
    bits = (int.from_bytes(head[18:26], "big") >> 36 & 0x1F) + 1
    md5 = head[26:42]
    # Past 24 bits float32 does not hold the samples exactly; all zeros stand for "not computed".
    return _FlacChecksum(bits, md5) if bits in (8, 16, 24) and any(md5) else None


def _as_flac_counts(block: NDArray[np.float32], bits: int) -> bytes:
    """Samples as the checksum takes them: integers, channels interleaved, lowest byte first."""
    # The decoder divides by the greatest positive number; the rounding of float32 stays below a quarter of a step.
    counts = np.rint(block.T.astype(np.float64) * (2 ** (bits - 1) - 1)).astype("<i4", order="C")
    count_bytes: NDArray[np.uint8] = counts.view(np.uint8).reshape(*counts.shape, 4)
    return count_bytes[..., : bits // 8].tobytes()
