"""Voice packs: what is written is read back, and whatever else a file may hold is refused in one sentence."""

import hashlib
import json
import os
import stat
import struct
import threading
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packs import delay_model, voice_card, write_test_pack
from pydantic import ValidationError

from models.graph import ModelError
from models.pack import PackError, PackManifest, VoiceCard, VoicePack, write_pack

MEMBERS = {"stream.onnx": delay_model({"a": 1.0, "b": 0.5}).SerializeToString(), "LICENCE.txt": b"free"}


def manifest(**changes: object) -> PackManifest:
    parts = {
        "title": "Test",
        "voices": [voice_card("a"), voice_card("b")],
        "sample_rate": 48_000,
        "licence": "CC0-1.0",
    }
    return PackManifest(**(parts | changes))


def described(members: dict[str, bytes]) -> dict[str, object]:
    """`voice.json` of these members, as plain data that a test may spoil."""
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in members.items()}
    return json.loads(manifest(members=hashes).model_dump_json())


def write_zip(path: Path, entries: list[tuple[str | zipfile.ZipInfo, bytes]], method: int = zipfile.ZIP_DEFLATED) -> Path:
    """A zip of just these entries, by the standard library alone."""
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", method) as archive:
        warnings.simplefilter("ignore")  # of names that come twice
        for name, data in entries:
            archive.writestr(name, data, method)
    return path


def whole(path: Path, text: object, members: dict[str, bytes] | None = None) -> Path:
    """A pack with this `voice.json` (bytes as they are)."""
    data = text if isinstance(text, bytes) else json.dumps(text).encode()
    return write_zip(path, [("voice.json", data), *(MEMBERS if members is None else members).items()])


def refusal(path: Path, member: str | None = None) -> str:
    with pytest.raises(PackError) as caught:
        pack = VoicePack.open(path)
        if member:
            pack.read(member)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and len(message) < 800
    return message


def test_what_is_written_is_read(tmp_path):
    write_pack(tmp_path / "x.voice", manifest(), MEMBERS)
    pack = VoicePack.open(str(tmp_path / "x.voice"))
    assert [card.name for card in pack.manifest.voices] == ["a", "b"]
    assert pack.manifest.voices[0] == voice_card("a")
    assert pack.manifest.members == {name: hashlib.sha256(data).hexdigest() for name, data in MEMBERS.items()}
    assert {name: pack.read(name) for name in MEMBERS} == MEMBERS
    assert "has no song.onnx" in _sentence(lambda: pack.read("song.onnx"))
    with zipfile.ZipFile(tmp_path / "x.voice") as archive:  # any other program can read it too
        assert json.loads(archive.read("voice.json"))["title"] == "Test"


def _sentence(call) -> str:
    with pytest.raises(PackError) as caught:
        call()
    return str(caught.value)


def test_the_same_input_gives_the_same_bytes(tmp_path):
    for name in ("x.voice", "y.voice"):
        write_pack(tmp_path / name, manifest(), MEMBERS)
    assert (tmp_path / "x.voice").read_bytes() == (tmp_path / "y.voice").read_bytes()


def test_a_pack_that_could_not_be_used_is_not_written_and_the_old_one_stays(tmp_path):
    path = tmp_path / "x.voice"
    write_pack(path, manifest(), MEMBERS)
    before = path.read_bytes()
    for bad in (manifest(voices=[voice_card("b"), voice_card("a")]), manifest(sample_rate=44_100)):
        with pytest.raises(PackError):
            write_pack(path, bad, MEMBERS)
    with pytest.raises(PackError):
        write_pack(path, manifest(), {"../stream.onnx": b""})
    with pytest.raises(ModelError):
        write_pack(path, manifest(), {"stream.onnx": b"no graph"})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["x.voice"]


@pytest.mark.skipif(os.name == "nt", reason="permission bits of POSIX")
def test_a_written_pack_can_be_read_by_others(tmp_path):
    write_pack(tmp_path / "x.voice", manifest(), MEMBERS)
    assert stat.S_IMODE((tmp_path / "x.voice").stat().st_mode) == 0o644


def test_the_stream_model_is_loaded_once_for_all_threads(tmp_path):
    pack = VoicePack.open(write_test_pack(tmp_path / "x.voice", delay_model({"a": 1.0, "b": 0.5})))
    models = []
    threads = [threading.Thread(target=lambda: models.append(pack.stream_model())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(models) == 8 and all(model is models[0] for model in models)
    assert models[0].voices == ("a", "b")


def test_a_pack_without_a_stream_model_says_so(tmp_path):
    write_pack(tmp_path / "x.voice", manifest(), {"song_net.onnx": b"-"})
    assert "has no stream.onnx" in _sentence(VoicePack.open(tmp_path / "x.voice").stream_model)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"voices": [json.loads(voice_card(name).model_dump_json()) for name in "ba"]}, "voices"),
        ({"sample_rate": 44_100}, "44100 Hz"),
    ],
)
def test_a_manifest_that_contradicts_the_graph_is_refused(tmp_path, changes, words):
    pack = VoicePack.open(whole(tmp_path / "x.voice", described(MEMBERS) | changes))
    assert words in _sentence(pack.stream_model)


@pytest.mark.parametrize(
    "name",
    ["../evil.onnx", "/etc/passwd", "a/b.onnx", "..\\evil.onnx", "C:evil", ".hidden", "", "a\0b", "a" * 300, "naïve.txt"],
)
def test_a_member_with_any_but_a_plain_name_is_refused(tmp_path, name):
    info = zipfile.ZipInfo("x")
    info.filename = name  # past the tidying that ZipInfo does
    members = [("voice.json", json.dumps(described(MEMBERS)).encode()), *MEMBERS.items(), (info, b"evil")]
    assert "plain file name" in refusal(write_zip(tmp_path / "x.voice", members))
    assert os.listdir(tmp_path) == ["x.voice"]


@pytest.mark.parametrize("again", ["stream.onnx", "STREAM.onnx", "voice.json"])
def test_a_name_that_comes_twice_is_refused(tmp_path, again):
    members = [("voice.json", json.dumps(described(MEMBERS)).encode()), *MEMBERS.items(), (again, b"other")]
    assert "twice" in refusal(write_zip(tmp_path / "x.voice", members))


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFDIR, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_are_refused(tmp_path, kind):
    info = zipfile.ZipInfo("stream.onnx")
    info.create_system = 3
    info.external_attr = (kind | 0o777) << 16
    members = [("voice.json", json.dumps(described({"stream.onnx": b"/etc/passwd"})).encode()), (info, b"/etc/passwd")]
    assert "plain file" in refusal(write_zip(tmp_path / "x.voice", members))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compression_is_refused(tmp_path, method):
    members = [("voice.json", json.dumps(described(MEMBERS)).encode()), *MEMBERS.items()]
    assert "stored or deflated" in refusal(write_zip(tmp_path / "x.voice", members, method))


def test_a_stored_pack_is_good(tmp_path):
    members = [("voice.json", json.dumps(described(MEMBERS)).encode()), *MEMBERS.items()]
    pack = VoicePack.open(write_zip(tmp_path / "x.voice", members, zipfile.ZIP_STORED))
    assert pack.read("LICENCE.txt") == b"free"


def patch_directory(path: Path, name: str, offset: int, format: str, number: int) -> None:
    """Change a field of a member's entry in the list of members; offsets as in the zip specification, 4.3.12."""
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\x01\x02", 0, data.rindex(name.encode()))
    struct.pack_into(format, data, entry + offset, number)
    path.write_bytes(data)


def test_an_encrypted_member_is_refused(tmp_path):
    path = whole(tmp_path / "x.voice", described(MEMBERS))
    patch_directory(path, "stream.onnx", 8, "<H", 1)
    assert "encrypted" in refusal(path)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    bomb = {"stream.onnx": bytes(8 << 20)}
    path = whole(tmp_path / "x.voice", described(bomb), bomb)
    assert path.stat().st_size < 20_000
    assert "times its packed size" in refusal(path)


def test_a_declared_size_beyond_the_bound_is_refused(tmp_path):
    path = whole(tmp_path / "x.voice", described(MEMBERS))
    patch_directory(path, "stream.onnx", 24, "<I", 600 << 20)
    assert "at most 536870912 bytes" in refusal(path)


def test_a_member_that_unpacks_to_more_than_it_declares_is_refused(tmp_path):
    lying = {"stream.onnx": bytes(8 << 20)}
    path = whole(tmp_path / "x.voice", described(lying), lying)
    patch_directory(path, "stream.onnx", 24, "<I", 1000)
    assert "cannot be unpacked" in refusal(path, "stream.onnx")


def test_more_members_than_allowed_are_refused(tmp_path):
    members = {f"member{index}": b"" for index in range(64)}
    path = write_zip(tmp_path / "x.voice", [("voice.json", b"{}"), *members.items()])
    assert "at most 64 members, got 65" in refusal(path)


def test_a_list_of_members_too_long_to_read_is_refused(tmp_path):
    path = write_zip(tmp_path / "x.voice", [(f"member{index}", b"") for index in range(2000)])
    assert "list its members in at most 65536 bytes" in refusal(path)


def test_a_zip64_record_cannot_go_round_the_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)  # has the standard library write one
    path = whole(tmp_path / "x.voice", described(MEMBERS))
    assert b"PK\x06\x07" in path.read_bytes()
    assert "zip file" in refusal(path)


def test_a_huge_manifest_is_refused(tmp_path):
    text = json.dumps(described(MEMBERS)).encode() + os.urandom(1 << 20).hex().encode()
    assert "voice.json must have at most 1048576 bytes" in refusal(whole(tmp_path / "x.voice", text))


@pytest.mark.parametrize(
    "members",
    [{}, {"stream.onnx": MEMBERS["stream.onnx"]}, MEMBERS | {"more.onnx": b""}],
    ids=["none", "one is missing", "one too many"],
)
def test_members_must_be_those_listed(tmp_path, members):
    assert "must hold the members" in refusal(whole(tmp_path / "x.voice", described(MEMBERS), members))


def test_another_content_than_the_hash_says_is_refused(tmp_path):
    path = whole(tmp_path / "x.voice", described(MEMBERS), MEMBERS | {"LICENCE.txt": b"evil"})
    assert "sha256" in refusal(path, "LICENCE.txt")


def test_a_pack_exchanged_after_it_was_opened_is_noticed(tmp_path):
    path = write_test_pack(tmp_path / "x.voice", delay_model({"a": 1.0}))
    pack = VoicePack.open(path)
    write_test_pack(path, delay_model({"a": 0.5}))
    assert "sha256" in _sentence(pack.stream_model)


CARD = json.loads(voice_card("a").model_dump_json())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format_version": 2}, "format_version"),
        ({"format_version": "1"}, "format_version"),
        ({"title": 3}, "title"),
        ({"title": "a\x1b[31mred"}, "title"),
        ({"title": "x" * 201}, "title"),
        ({"sample_rate": 48_000.5}, "sample_rate"),
        ({"sample_rate": "48000"}, "sample_rate"),
        ({"sample_rate": True}, "sample_rate"),
        ({"sample_rate": 10**400}, "sample_rate"),
        ({"voices": []}, "voices"),
        ({"voices": {"a": CARD}}, "voices"),
        ({"voices": [CARD, CARD]}, "must differ"),
        ({"voices": [CARD] * 300}, "voices"),
        ({"voices": [CARD | {"name": "A b"}]}, "voices.0.name"),
        ({"voices": [CARD | {"name": "../a"}]}, "voices.0.name"),
        ({"voices": [CARD | {"name": "a\n"}]}, "voices.0.name"),
        ({"voices": [CARD | {"f0_range_hz": [100.0]}]}, "f0_range_hz"),
        ({"voices": [CARD | {"f0_range_hz": [200.0, 100.0]}]}, "must rise"),
        ({"voices": [CARD | {"f0_range_hz": [float("nan"), 100.0]}]}, "f0_range_hz"),
        ({"voices": [CARD | {"f0_range_hz": [0.0, 100.0]}]}, "f0_range_hz"),
        ({"voices": [CARD | {"quality": {"cosine": float("inf")}}]}, "quality"),
        ({"voices": [CARD | {"quality": {"cosine": "1"}}]}, "quality"),
        ({"voices": [CARD | {"credits": None}]}, "credits"),
        ({"voices": [CARD | {"secret": 1}]}, "secret"),
        ({"voices": [{key: CARD[key] for key in CARD if key != "licence"}]}, "licence"),
        ({"members": {"stream.onnx": "abc"}}, "members"),
        ({"members": None}, "members"),
        ({"more": 1}, "more"),
    ],
)
def test_a_manifest_that_is_off_is_refused_by_the_name_of_the_field(tmp_path, changes, words):
    message = refusal(whole(tmp_path / "x.voice", described(MEMBERS) | changes))
    assert "voice.json is not valid" in message and words in message


@pytest.mark.parametrize("text", [b"", b"null", b"[]", b"{", b"\xff\xfe{}", b"[" * 200_000, b'{"title": "\xff"}', b"NaN"])
def test_a_manifest_that_is_no_json_object_is_refused(tmp_path, text):
    assert "voice.json is not valid" in refusal(whole(tmp_path / "x.voice", text))


def test_no_manifest_is_no_pack(tmp_path):
    assert "no voice.json" in refusal(write_zip(tmp_path / "x.voice", list(MEMBERS.items())))


def test_what_is_no_file_is_refused(tmp_path):
    assert "there is no file" in refusal(tmp_path / "missing.voice")
    (tmp_path / "folder.voice").mkdir()
    assert "must be a file" in refusal(tmp_path / "folder.voice")
    (tmp_path / "empty.voice").touch()
    assert "zip file" in refusal(tmp_path / "empty.voice")
    (tmp_path / "text.voice").write_text("this is no zip file, but it is long enough to be one")
    assert "zip file" in refusal(tmp_path / "text.voice")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.voice")
    assert "must be a file" in refusal(tmp_path / "pipe.voice")


def test_a_huge_file_is_refused_unread(tmp_path):
    path = tmp_path / "x.voice"
    with path.open("wb") as file:
        file.truncate(600 << 20)  # sparse: takes no room
    assert "at most 536870912 bytes" in refusal(path)


SMALL = {"LICENCE.txt": b"free", "song_net.onnx": np.random.default_rng(0).bytes(200)}


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    return whole(tmp_path_factory.mktemp("good") / "x.voice", described(SMALL), SMALL)


def test_a_pack_cut_anywhere_is_refused(good, tmp_path):
    data = good.read_bytes()
    for length in range(0, len(data), 11):
        (tmp_path / "cut.voice").write_bytes(data[:length])
        assert "zip file" in refusal(tmp_path / "cut.voice")


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_spoiled_pack_is_refused_or_gives_what_it_held(good, tmp_path, data):
    spoiled = bytearray(good.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        spoiled[data.draw(st.integers(0, len(spoiled) - 1))] ^= data.draw(st.integers(1, 255))
    path = tmp_path / "spoiled.voice"
    path.write_bytes(spoiled)
    try:
        pack = VoicePack.open(path)
        held = {name: pack.read(name) for name in pack.manifest.members}
    except PackError as error:
        assert "\n" not in str(error)
    else:
        assert held == SMALL
        assert pack.manifest == VoicePack.open(good).manifest


lines = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=40)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(st.from_regex(r"[a-z0-9][a-z0-9_-]{0,31}", fullmatch=True), min_size=1, max_size=5, unique=True),
    title=lines,
    figures=st.dictionaries(lines, st.floats(allow_nan=False, allow_infinity=False), max_size=4),
    members=st.dictionaries(st.from_regex(r"[a-z][a-z0-9_]{0,20}\.bin", fullmatch=True), st.binary(max_size=100), max_size=4),
)
def test_any_good_pack_survives_the_round_trip(tmp_path, names, title, figures, members):
    cards = [voice_card(name).model_copy(update={"credits": title, "quality": figures}) for name in names]
    wanted = manifest(title=title, voices=cards)
    write_pack(tmp_path / "x.voice", wanted, members)
    pack = VoicePack.open(tmp_path / "x.voice")
    assert pack.manifest.model_copy(update={"members": {}}) == wanted
    assert {name: pack.read(name) for name in pack.manifest.members} == members


def test_cards_made_in_python_are_checked_like_those_read():
    with pytest.raises(ValidationError, match="must rise"):
        VoiceCard(**(dict(voice_card("a")) | {"f0_range_hz": (300.0, 300.0)}))
