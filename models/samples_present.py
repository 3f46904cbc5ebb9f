"""How many samples an audio file has room for, whatever its header promises.

The decoder fills what is missing with silence: hours of it after the header of a WAV file that was written to a pipe.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

MOST_SAMPLES_PER_BYTE = 1 << 16  # FLAC, the densest format, puts at most 65535 into a frame of some ten bytes
MOST_CHUNKS = 4096  # of a WAV or AIFF file before its audio; real ones have some ten


def samples_present(path: Path) -> int:
    """Samples for which a WAV or AIFF file has room after its header, or an MP3 one that tells how many bytes it has.

    For others, more than a file can hold.
    """
    most = path.stat().st_size * MOST_SAMPLES_PER_BYTE
    with path.open("rb") as file:
        magic = file.read(12)
        if magic[:4] in (b"RIFF", b"RF64", b"BW64") and magic[8:] == b"WAVE":
            size_format, description, audio = "<I", b"fmt ", b"data"
        elif magic[:4] == b"FORM" and magic[8:] in (b"AIFF", b"AIFC"):
            size_format, description, audio = ">I", b"COMM", b"SSND"
        else:
            file.seek(0)
            return _mp3_samples(file, path.stat().st_size, most)
        frame_bytes = 0
        for _ in range(MOST_CHUNKS):
            head = file.read(8)
            if len(head) < 8:
                break
            name, size = head[:4], struct.unpack(size_format, head[4:])[0]
            if name == audio:
                start = file.tell() + (8 if audio == b"SSND" else 0)  # AIFF: an offset and a block size come first
                return (file.seek(0, 2) - start) // frame_bytes if frame_bytes else most
            next_chunk = file.tell() + size + size % 2
            if name == description:
                frame_bytes = _frame_bytes(file.read(min(size, 22)), name)
            file.seek(next_chunk)
    return most


def _frame_bytes(description: bytes, name: bytes) -> int:
    """Bytes of one sample of all channels; 0 for compressed audio, whose samples do not have a size."""
    if name == b"fmt " and len(description) >= 16:
        encoding, _, _, _, frame_bytes = struct.unpack_from("<HHIIH", description)
        return int(frame_bytes) if encoding in (1, 3, 0xFFFE) else 0  # integers, floats, either of them
    if name == b"COMM" and len(description) >= 18:
        channels, _, bits = struct.unpack_from(">HIH", description)
        uncompressed = description[18:] in (b"", b"NONE", b"sowt", b"twos", b"fl32", b"FL32")
        return int(channels) * ((bits + 7) // 8) if uncompressed else 0
    return 0


def _mp3_samples(file: BinaryIO, size: int, most: int) -> int:
    """By the table of contents, in an MP3's first frame ("Xing", or "Info" where the bit rate is constant), that encoders write.

    Its share of bytes that are there is the share of frames, nearly.
    """
    head = file.read(10)
    start = 0
    if head[:3] == b"ID3" and len(head) == 10:  # tags come first: seven bits of the size in each byte
        start = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
        file.seek(start)
        head = file.read(4)
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:  # layer III of any version
        return most
    newest, mono = head[1] & 0x18 == 0x18, head[3] & 0xC0 == 0xC0  # MPEG 1, else 2 or 2.5
    file.seek(start + 4 + ((17 if mono else 32) if newest else (9 if mono else 17)))
    table = file.read(16)
    if len(table) < 16 or table[:4] not in (b"Xing", b"Info"):
        return most
    told, frames, count = struct.unpack(">III", table[4:])
    if told & 3 != 3 or count <= size - start:  # both numbers are there
        return most
    return int(frames * (1152 if newest else 576) * (size - start) // count)
