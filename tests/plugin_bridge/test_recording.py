"""Recordings are read as they are, and damage is told."""

import os
import struct

import numpy as np
import pytest
from pedalboard.io import AudioFile

from plugin_bridge.files import FileError
from plugin_bridge.recording import open_recording


def noise(samples=150_000, channels=2):
    return np.random.default_rng(0).uniform(-0.9, 0.9, (channels, samples)).astype(np.float32)


def write_audio(path, audio, **options):
    with AudioFile(str(path), "w", 48000, audio.shape[0], **options) as file:
        file.write(audio)
    return path


def read_all(path):
    with open_recording(path) as recording:
        return np.concatenate(list(recording.blocks()), axis=1), recording


WRITTEN = [
    *[("a.wav", bits) for bits in (8, 16, 24, 32)],
    *[("a.aiff", bits) for bits in (8, 16, 24)],
    *[("a.flac", bits) for bits in (16, 24)],
]


def step(bits):
    """Between neighbouring values, and some more: the encoder cuts off instead of rounding."""
    return 2.1 * 2.0 ** (1 - min(bits, 24))


@pytest.mark.parametrize(("name", "bits"), WRITTEN)
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_whole_files_are_read_whole(tmp_path, name, bits, channels):
    wanted = noise(70_000, channels)
    audio, recording = read_all(write_audio(tmp_path / name, wanted, bit_depth=bits))
    assert recording.samples == recording.promised == 70_000
    assert np.abs(audio - wanted).max() <= step(bits)


def test_parts_are_where_they_are(tmp_path):
    wanted = noise()
    with open_recording(write_audio(tmp_path / "a.wav", wanted, bit_depth=32)) as recording:
        assert np.array_equal(recording.read(100_000, 7), wanted[:, 100_000:100_007])
        assert np.array_equal(recording.read(3, 5), wanted[:, 3:8])
        assert np.array_equal(recording.read(149_999, 10), wanted[:, 149_999:])
        assert recording.read(150_000, 10).shape == (2, 0)
        assert np.array_equal(np.concatenate(list(recording.blocks()), axis=1), wanted)


@pytest.mark.parametrize(("name", "bits"), [("a.wav", 16), ("a.wav", 32), ("a.aiff", 24)])
def test_of_a_file_cut_short_what_is_there_is_read(tmp_path, name, bits):
    """The decoder alone would fill the rest with silence."""
    path = write_audio(tmp_path / name, noise(48000), bit_depth=bits)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - 40_000 * 2 * bits // 8])
    audio, recording = read_all(path)
    assert recording.promised == 48000
    # Whatever padding ends the file, at most a sample less or more is left.
    assert abs(recording.samples - 8000) <= 1 and audio.shape[1] == recording.samples
    assert np.abs(audio[:, :7999] - noise(48000)[:, :7999]).max() <= step(bits)


@pytest.mark.parametrize("tags", [b"", b"ID3\x04\x00\x00\x00\x00\x01\x48" + bytes(200)])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("rate", "quality"), [(44_100, "V2"), (48_000, "320 kbps"), (22_050, "64 kbps")])  # the last is MPEG 2
def test_of_an_mp3_cut_short_what_is_there_is_read(tmp_path, rate, quality, channels, tags):
    path = tmp_path / "a.mp3"
    with AudioFile(str(path), "w", rate, channels, quality=quality) as file:
        file.write(0.2 * noise(5 * rate)[:channels])
    whole = path.read_bytes()
    path.write_bytes(tags + whole)
    audio, recording = read_all(path)
    assert recording.samples == recording.promised == audio.shape[1]
    promised = recording.promised
    path.write_bytes(tags + whole[: len(whole) * 2 // 5])
    audio, recording = read_all(path)
    assert recording.promised == promised and recording.samples == pytest.approx(0.4 * promised, rel=0.05)
    assert 0 <= recording.samples - audio.shape[1] <= 1152  # the last frame may be cut
    assert np.abs(audio[:, -rate // 4 :]).max() > 0.05  # and not the decoder's silence


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF024])
def test_a_file_that_was_written_to_a_pipe_is_as_long_as_it_is(tmp_path, size):
    """Its header, written first, could not know the length: some programs put the greatest number there."""
    path = write_audio(tmp_path / "a.wav", noise(48000), bit_depth=16)
    data = bytearray(path.read_bytes())
    at = data.index(b"data")
    data[at + 4 : at + 8] = struct.pack("<I", size)
    path.write_bytes(data)
    audio, recording = read_all(path)
    assert recording.samples == audio.shape[1] == 48000 and recording.promised > 48000


@pytest.mark.parametrize("damage", ["cut", "bytes", "samples"])
@pytest.mark.parametrize("bits", [16, 24])
def test_a_damaged_flac_is_told(tmp_path, damage, bits):
    path = write_audio(tmp_path / "a.flac", noise(), bit_depth=bits)
    data = bytearray(path.read_bytes())
    if damage == "cut":
        data = data[: len(data) // 2]
    elif damage == "bytes":
        data[len(data) // 2 : len(data) // 2 + 3000] = bytes(3000)
    else:
        data[26] ^= 1  # as if each frame were whole, but another's
    path.write_bytes(data)
    with pytest.raises(FileError, match=r"a\.flac is damaged"):
        read_all(path)


@pytest.mark.parametrize(
    "header",
    [
        b"RIFF\x00\x00\x00\x00WAVE" + b"junk\x00\x00\x00\x00" * 5000,
        b"RIFF\xff\xff\xff\xffWAVEfmt \xff\xff\xff\xff",
        b"RIFF\x24\x00\x00\x00WAVEfmt \x10\x00\x00\x00" + bytes(16) + b"data\xff\xff\xff\xff",
        b"FORM\x00\x00\x00\x00AIFFCOMM\x00\x00\x00\x12" + bytes(18) + b"SSND\xff\xff\xff\xff",
        # 2 ** 36 - 1 samples of 24 bits at 48 kHz, none of which is there
        b"fLaC\x80\x00\x00\x22\x10\x00\x10\x00" + bytes(6) + b"\x0b\xb8\x01\x7f" + b"\xff" * 20,
        b"fLaC",
        b"OggS" + bytes(100),
        b"ID3\x04\x00\x00\x7f\x7f\x7f\x7f",
    ],
)
def test_hostile_headers_are_refused_in_one_sentence(tmp_path, header):
    path = tmp_path / "a.wav"
    path.write_bytes(header)
    with pytest.raises(FileError) as caught:
        read_all(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def open_fails(path):
    with pytest.raises(FileError) as caught, open_recording(path):
        pass
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


def test_what_cannot_be_opened_is_told_in_one_sentence(tmp_path):
    assert "there is no file" in open_fails(tmp_path / "nothing.wav")
    assert "is a folder" in open_fails(tmp_path)
    (tmp_path / "zero.wav").touch()
    assert "empty" in open_fails(tmp_path / "zero.wav")
    (tmp_path / "noise.wav").write_bytes(np.random.default_rng(0).bytes(5000))
    assert "no audio in a format" in open_fails(tmp_path / "noise.wav")
    assert "0 samples" in open_fails(write_audio(tmp_path / "none.wav", noise(0)))
    os.mkfifo(tmp_path / "pipe.wav")
    assert "not a regular file" in open_fails(tmp_path / "pipe.wav")
