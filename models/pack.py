"""Voice packs: `NAME.voice`, a zip with `voice.json` and the ONNX models of one bank of voices."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import struct
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, Literal, get_args

from pydantic import Field, ValidationError, model_validator

from models.schema import Line, SampleRate, Schema, Text, VoiceName, first_problem

if TYPE_CHECKING:
    from models.lhq.song import SongModel
    from models.stream import StreamModel

MANIFEST = "voice.json"
STREAM_MODEL = "stream.onnx"

MAX_PACK_BYTES = 512 << 20
MAX_MANIFEST_BYTES = 1 << 20
MAX_MEMBERS = 64
# The zip's list of members: some 100 bytes each, and room for what other tools add.
MAX_DIRECTORY_BYTES = 64 << 10
# Weights hardly compress; what shrinks a hundredfold is padding made to fill the reader's memory.
MAX_RATIO = 100

# Plain file names only: no reader on any system, nor a person who unzips a pack, is led out of its folder.
_MEMBER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}(\.[A-Za-z0-9_-]{1,16}){0,2}")

Size = Literal["lhq", "mobile"]
Part = Literal["content", "condition", "denoiser", "vocoder"]

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Hertz = Annotated[float, Field(ge=20.0, le=4000.0)]


# What converting someone's voice asks of whoever does it.
DUTY = (
    "Convert to a voice only if the person it belongs to agreed to that use. "
    "Say that a voice was converted when listeners would otherwise take it for the person."
)


class PackError(ValueError):
    """A voice pack cannot be used; the message is one sentence that names the file."""


class VoiceCard(Schema):
    """One voice of a pack, for people and for choosing a transposition.

    `name` is what users type; `singer` the person; `f0_range_hz` the range in which the voice was trained; `limits` what it is not
    good for; `quality` measured figures; `duty` what using it asks.
    """

    name: VoiceName
    display_name: Line
    language: Line = ""
    kind: Line = ""
    singer: Text = ""
    f0_range_hz: tuple[Hertz, Hertz]
    licence: Line
    credits: Text
    training_data: Text
    limits: Text = ""
    duty: Text = DUTY
    quality: dict[Line, float] = Field(default_factory=dict, max_length=64)

    @model_validator(mode="after")
    def _range_rises(self) -> VoiceCard:
        low, high = self.f0_range_hz
        if low >= high:
            raise ValueError(f"f0_range_hz must rise, got {low} to {high}")
        return self


class PackManifest(Schema):
    """`voice.json`. The order of `voices` is the order of the weights in the models; `sample_rate` is in Hz.

    `songs` names, for each size of the song engine that the pack has, the member that holds each of its graphs; one that was
    trained with an encoder that users have by themselves has no graph of the content.
    """

    format_version: Literal[1] = 1
    title: Line
    voices: list[VoiceCard] = Field(min_length=1, max_length=256)
    sample_rate: SampleRate
    licence: Line
    members: dict[str, Sha256] = Field(default_factory=dict, max_length=MAX_MEMBERS)
    songs: dict[Size, dict[Part, Line]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _songs_are_whole(self) -> PackManifest:
        for size, parts in self.songs.items():
            if missing := sorted(set(get_args(Part)) - {"content"} - set(parts)):
                raise ValueError(f"the song engine {size} needs a member for each part, it has none for {missing[0]}")
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> PackManifest:
        names = [card.name for card in self.voices]
        if len(set(names)) != len(names):
            raise ValueError(f"the names of the voices must differ from each other, got {names}")
        return self


class VoicePack:
    """An opened pack: its manifest, and its members on demand. May be shared between threads.

    Opening reads `voice.json` alone, so a folder of packs is listed quickly; a member is checked when it is read, and a graph that
    does not come with the program is not run before it is clear what that takes.
    """

    def __init__(self, path: Path, manifest: PackManifest) -> None:
        self.path = path
        self.manifest = manifest
        self._lock = threading.Lock()
        self._stream_model: StreamModel | None = None
        self._song_models: dict[Size, SongModel] = {}

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> VoicePack:
        """Open and check a pack.

        Raises
        ------
        PackError
            If the file is missing, is no zip, is too large, or its contents are not as the format has it.
        """
        path = Path(path)
        with _archive(path) as archive:
            names = _checked_names(path, archive)
            if MANIFEST not in names:
                raise PackError(f"{path} has no {MANIFEST}, so it is no voice pack")
            text = _member(path, archive, MANIFEST)
        try:
            manifest = PackManifest.model_validate_json(text)
        except ValidationError as error:
            raise PackError(f"{path}: {MANIFEST} is not valid: {first_problem(error)}") from None
        if names - {MANIFEST} != manifest.members.keys():
            found, listed = sorted(names - {MANIFEST}), sorted(manifest.members)
            raise PackError(f"{path} must hold the members that {MANIFEST} lists, {listed}, but holds {found}")
        return cls(path, manifest)

    def read(self, member: str) -> bytes:
        """The contents of a member, checked against the manifest's sha256.

        Raises
        ------
        PackError
            If there is no such member or its contents are not those that the manifest names.
        """
        if member not in self.manifest.members:
            raise PackError(f"{self.path} has no {member}, it has {sorted(self.manifest.members)}")
        with _archive(self.path) as archive:
            _checked_names(self.path, archive)
            data = _member(self.path, archive, member)
        found, wanted = hashlib.sha256(data).hexdigest(), self.manifest.members[member]
        if found != wanted:
            raise PackError(f"{self.path}: {member} must have the sha256 {wanted}, got {found}")
        return data

    @property
    def _is_bundled(self) -> bool:
        """Whether it comes with the program."""
        return self.path.resolve().parent == Path(str(files("presets"))).resolve()

    @property
    def streams(self) -> bool:
        """Whether there is a streaming model; without songs either, it is missed when it is asked for."""
        return STREAM_MODEL in self.manifest.members or not self.manifest.songs

    def stream_model(self) -> StreamModel:
        """The pack's streaming model, loaded at the first call and shared from then on.

        Raises
        ------
        PackError
            If the pack has none, or one whose voices or rate are not the manifest's.
        ModelError
            If the graph itself is off.
        """
        if not self.streams:
            raise PackError(f"{self.path} has no stream engine, only one for songs: take plugin-bridge render, or engine 'song'")
        # onnxruntime comes with this import; listing voices does without.
        from models.graph_cost import check_cost
        from models.stream import StreamModel

        with self._lock:
            if self._stream_model is None:
                data, name = self.read(STREAM_MODEL), f"{STREAM_MODEL} in {self.path}"
                if not self._is_bundled:
                    check_cost(data, name)
                model = StreamModel.from_bytes(data, name)
                names = tuple(card.name for card in self.manifest.voices)
                if model.voices != names:
                    raise PackError(f"{self.path}: {STREAM_MODEL} must have the voices {names}, got {model.voices}")
                if model.sample_rate != self.manifest.sample_rate:
                    raise PackError(
                        f"{self.path}: {STREAM_MODEL} must run at {self.manifest.sample_rate} Hz, got {model.sample_rate} Hz"
                    )
                self._stream_model = model
            return self._stream_model

    def song_model(self, size: Size) -> SongModel:
        """The pack's song engine of this size, loaded at the first call and shared from then on.

        Raises
        ------
        PackError
            If the pack has none, or one whose voices are not the manifest's.
        ModelError
            If a graph itself is off.
        """
        from models.graph_cost import MOST_WORK, check_cost
        from models.lhq.song import LONGEST_FRAMES, TRIAL_FRAMES, SongModel

        with self._lock:
            if size not in self._song_models:
                if size not in self.manifest.songs:
                    there = f"it has {', '.join(self.manifest.songs)}" if self.manifest.songs else "it has none"
                    raise PackError(f"{self.path} has no song engine {size!r}, {there}")
                members = self.manifest.songs[size]
                data = {part: self.read(name) for part, name in members.items()}
                for part in () if self._is_bundled else data:
                    for frames in (TRIAL_FRAMES, LONGEST_FRAMES):
                        # As much for each frame as is let pass at the trial: a take is then done in some such time as it lasts.
                        check_cost(data[part], f"{members[part]} in {self.path}", frames, MOST_WORK * frames // TRIAL_FRAMES)
                model = SongModel.from_bytes(data, members, str(self.path))
                names = tuple(card.name for card in self.manifest.voices)
                if model.voices != names:
                    raise PackError(f"{self.path}: {members['condition']} must have the voices {names}, got {model.voices}")
                self._song_models[size] = model
            return self._song_models[size]


def write_pack(path: str | os.PathLike[str], manifest: PackManifest, members: Mapping[str, bytes]) -> None:
    """Write a pack, beside its place and then renamed into it, so that no half-written pack is ever seen.

    The hashes in `manifest.members` are made here. The same input gives the same bytes. What is written has been
    opened, and its models loaded, before it takes its place.

    Raises
    ------
    PackError, ModelError
        If what would be written could not be used.
    """
    path = Path(path)
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in members.items()}
    text = manifest.model_copy(update={"members": hashes}).model_dump_json(indent=2)
    handle, beside_name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    beside = Path(beside_name)
    try:
        with os.fdopen(handle, "wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in {MANIFEST: text.encode(), **members}.items():
                # ZipInfo's own date, 1980: the bytes do not depend on when they were written.
                info = zipfile.ZipInfo(name)
                info.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(info, data)
        pack = VoicePack.open(beside)
        if STREAM_MODEL in members:
            pack.stream_model()
        for size in manifest.songs:
            pack.song_model(size)
        # mkstemp makes files that only their owner reads; a pack is as public as any other new file.
        beside.chmod(0o644)
        beside.replace(path)
    except ValueError as error:
        # Nobody knows the file that was tried.
        error.args = (str(error).replace(str(beside), str(path)),)
        raise
    finally:
        beside.unlink(missing_ok=True)


def complete_pack(made: VoicePack, earlier: str | os.PathLike[str], out: str | os.PathLike[str]) -> None:
    """Write to `out` a pack with the engine that it lacks, if an `earlier` pack of the same voices has it.

    Raises
    ------
    PackError, ModelError
        If the two together could not be used.
    """
    manifest, members = made.manifest, {name: made.read(name) for name in made.manifest.members}
    try:
        there: VoicePack | None = VoicePack.open(earlier)
    except PackError:
        there = None  # what is not there, or cannot be used, adds nothing
    if there is not None and [card.name for card in there.manifest.voices] == [card.name for card in manifest.voices]:
        old = there.manifest
        changed: dict[str, object] = {}
        if STREAM_MODEL not in members and STREAM_MODEL in old.members:
            members[STREAM_MODEL], changed["sample_rate"] = there.read(STREAM_MODEL), old.sample_rate
        if not manifest.songs and old.songs:
            kept = {name for parts in old.songs.values() for name in parts.values()}
            members |= {name: there.read(name) for name in kept}
            changed["songs"] = old.songs
        if changed:
            pairs = zip(old.voices, manifest.voices, strict=True)
            changed["voices"] = [new.model_copy(update={"quality": before.quality | new.quality}) for before, new in pairs]
            manifest = manifest.model_copy(update=changed)
    write_pack(out, manifest, members)


def add_quality(pack: VoicePack, quality: Mapping[str, float]) -> None:
    """Write a pack anew, in its place, with measured figures beside those that its voices have.

    Raises
    ------
    PackError
        If a figure is no finite number.
    """
    voices = [card.model_copy(update={"quality": card.quality | dict(quality)}) for card in pack.manifest.voices]
    members = {name: pack.read(name) for name in pack.manifest.members}
    write_pack(pack.path, pack.manifest.model_copy(update={"voices": voices}), members)


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        # Not a pipe or a device: opening one could wait for ever.
        if not stat.S_ISREG(path.stat().st_mode):
            raise PackError(f"{path} must be a file")
        with path.open("rb") as file:
            _check_end(path, file)
            with zipfile.ZipFile(file) as archive:
                yield archive
    except FileNotFoundError:
        raise PackError(f"there is no file {path}") from None
    except OSError as error:
        raise PackError(f"{path} cannot be read: {error.strerror or error}") from None
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError, struct.error) as error:
        raise PackError(f"{path} must be a whole zip file, but it is not: {error}") from None


def _check_end(path: Path, file: BinaryIO) -> None:
    """Bound what zipfile is about to read whole: the list of members, whose size stands in the file's last record."""
    size = file.seek(0, os.SEEK_END)
    if size > MAX_PACK_BYTES:
        raise PackError(f"{path} must have at most {MAX_PACK_BYTES} bytes, got {size}")
    # A pack is no zip64 and has no comment, so the record is the last 22 bytes and no locator stands before it.
    file.seek(max(0, size - 42))
    tail = file.read()
    record = tail[-22:]
    if len(record) < 22 or record[:4] != b"PK\x05\x06" or record[20:] != b"\0\0" or tail[:4] == b"PK\x06\x07":
        raise PackError(f"{path} must be a whole zip file without a comment, but it does not end as one")
    (directory,) = struct.unpack_from("<I", record, 12)
    if directory > MAX_DIRECTORY_BYTES:
        raise PackError(f"{path} must list its members in at most {MAX_DIRECTORY_BYTES} bytes, got {directory}")


def _checked_names(path: Path, archive: zipfile.ZipFile) -> set[str]:
    members = archive.infolist()
    if len(members) > MAX_MEMBERS:
        raise PackError(f"{path} must have at most {MAX_MEMBERS} members, got {len(members)}")
    total = sum(member.file_size for member in members)
    if total > MAX_PACK_BYTES:
        raise PackError(f"{path} must unpack to at most {MAX_PACK_BYTES} bytes, got {total}")
    names: set[str] = set()
    for member in members:
        name = member.orig_filename
        if not _MEMBER_NAME.fullmatch(name):
            raise PackError(f"{path}: a member must have a plain file name, got {name[:100]!r}")
        # Without regard to case: on some systems two such names are one file.
        if name.lower() in {known.lower() for known in names}:
            raise PackError(f"{path} has the member {name} twice")
        if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
            raise PackError(f"{path}: {name} must be a plain file, not a link or a device")
        if member.flag_bits & 0x1:
            raise PackError(f"{path}: {name} is encrypted, which a voice pack must not be")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise PackError(f"{path}: {name} must be stored or deflated, got method {member.compress_type}")
        if member.file_size > MAX_MANIFEST_BYTES and member.file_size > MAX_RATIO * member.compress_size:
            raise PackError(
                f"{path}: {name} must unpack to at most {MAX_RATIO} times its packed size, "
                f"got {member.file_size} bytes from {member.compress_size}"
            )
        names.add(name)
    return names


def _member(path: Path, archive: zipfile.ZipFile, name: str) -> bytes:
    size = archive.getinfo(name).file_size
    if name == MANIFEST and size > MAX_MANIFEST_BYTES:
        raise PackError(f"{path}: {MANIFEST} must have at most {MAX_MANIFEST_BYTES} bytes, got {size}")
    try:
        # zipfile never gives more than the size checked above, whatever the packed bytes would unpack to.
        return archive.read(name)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, ValueError) as error:
        raise PackError(f"{path}: {name} cannot be unpacked: {error}") from None
