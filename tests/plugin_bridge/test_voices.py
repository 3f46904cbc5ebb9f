"""Finding voices by name, and what importing the package costs and checks."""

import importlib.resources
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from packs import delay_model, write_test_pack

from models.pack import PackError, VoicePack
from plugin_bridge import voices
from plugin_bridge.voices import UnknownVoiceError, broken_packs, find_voice, user_folder

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty folder that is looked in first."""
    monkeypatch.setenv("PLUGIN_BRIDGE_VOICES", str(tmp_path))
    return tmp_path


def test_the_voices_of_a_pack_are_found_at_their_places():
    assert {"delay512", "delay480", "bank_a", "bank_b", "rate16k", "accumulator"} <= set(voices())
    first, second = find_voice("bank_a"), find_voice("bank_b")
    assert (first.index, second.index) == (0, 1)
    assert (first.card.name, second.card.name) == ("bank_a", "bank_b")
    assert first.pack is second.pack
    assert first.pack.stream_model().voices == ("bank_a", "bank_b")


def test_the_bundled_voices_are_at_hand(folder):
    packs = [Path(str(entry)) for entry in importlib.resources.files("presets").iterdir() if entry.name.endswith(".voice")]
    bundled = [card.name for pack in packs for card in VoicePack.open(pack).manifest.voices]
    assert {"pjs", "kerstin", "alys"} <= set(bundled)
    assert set(bundled) <= set(voices())


def test_folders_are_searched_in_the_order_written_and_then_the_users_own(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("PLUGIN_BRIDGE_VOICES", os.pathsep.join([str(tmp_path / "1"), "", str(tmp_path / "2")]))
    for place in (tmp_path / "1", tmp_path / "2", user_folder()):
        place.mkdir(parents=True)
    for place, names in ((tmp_path / "1", "x"), (tmp_path / "2", "xy"), (user_folder(), "xyz")):
        write_test_pack(place / "some.voice", delay_model(dict.fromkeys(names, 1.0)))
    assert voices()[:3] == ["x", "y", "z"]
    assert [find_voice(name).pack.path.parent for name in "xyz"] == [tmp_path / "1", tmp_path / "2", user_folder()]


def test_a_voice_is_found_by_the_path_of_its_pack(tmp_path):
    path = write_test_pack(tmp_path / "far away.voice", delay_model({"far": 1.0, "away": 1.0}))
    assert find_voice(str(path)).card.name == "far"
    assert find_voice(str(path)).pack is find_voice(str(path)).pack
    assert "far" not in voices()
    with pytest.raises(PackError, match="there is no file"):
        find_voice(str(tmp_path / "none.voice"))


def test_a_name_that_is_not_there_is_answered_with_those_that_are(folder):
    write_test_pack(folder / "one.voice", delay_model({"one": 1.0, "two": 1.0}))
    with pytest.raises(UnknownVoiceError, match=r"no voice is called 'onne', there are one, two"):
        find_voice("onne")
    (folder / "bad.voice").write_bytes(b"bad")
    with pytest.raises(UnknownVoiceError, match=r"1 broken pack was left out"):
        find_voice("onne")


def test_a_broken_pack_is_left_out_and_told_and_the_rest_work(folder):
    write_test_pack(folder / "good.voice", delay_model({"good": 1.0}))
    data = write_test_pack(folder / "cut.voice", delay_model({"cut": 1.0})).read_bytes()
    (folder / "cut.voice").write_bytes(data[:-30])
    (folder / "text.voice").write_text("no pack")
    (folder / "folder.voice").mkdir()
    (folder / "notes.txt").write_text("not looked at")
    (folder / ".good.voice.part").write_text("not looked at: half written")
    (folder / ".hidden.voice").write_text("not looked at")
    assert find_voice("good").pack.stream_model().voices == ("good",)
    assert "cut" not in voices()
    told = broken_packs()
    assert len(told) == 3 and all("\n" not in sentence for sentence in told)
    for name in ("cut.voice", "text.voice", "folder.voice"):
        assert any(name in sentence for sentence in told)


def test_a_pack_that_changes_is_read_again_and_one_that_does_not_is_not(folder):
    path = write_test_pack(folder / "x.voice", delay_model({"before": 1.0}))
    before = find_voice("before").pack
    assert find_voice("before").pack is before
    write_test_pack(path, delay_model({"after_all": 1.0}))
    assert "before" not in voices()
    assert find_voice("after_all").pack is not before
    assert find_voice("after_all").pack.stream_model().voices == ("after_all",)
    path.unlink()
    assert "after_all" not in voices()
    assert broken_packs() == []


def test_folders_that_are_not_there_hold_no_voices(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("PLUGIN_BRIDGE_VOICES", os.pathsep.join([str(tmp_path / "none"), str(tmp_path / "file")]))
    assert "delay512" not in voices()
    assert broken_packs() == []


def test_many_threads_may_look_while_a_pack_is_written_anew(folder):
    model = delay_model({"busy": 1.0})
    write_test_pack(folder / "x.voice", model)
    failures: list[Exception] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            try:
                assert find_voice("busy").index == 0
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        write_test_pack(folder / "x.voice", model)
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []


def python(code: str, cwd: Path, *path: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path))}
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True)


HEAVY = ("torch", "sounddevice", "matplotlib", "onnxruntime", "onnx", "numpy", "pydantic", "pedalboard", "scipy", "rich")


def test_importing_the_package_loads_nothing_heavy(tmp_path):
    code = f"import plugin_bridge, sys; print([name for name in {HEAVY} if name in sys.modules])"
    result = python(code, tmp_path, REPOSITORY)
    assert (result.stdout.strip(), result.stderr) == ("[]", "")


def test_listing_voices_loads_no_runtime(tmp_path):
    code = "import plugin_bridge, sys; print(len(plugin_bridge.voices()), 'onnxruntime' in sys.modules)"
    result = python(code, tmp_path, REPOSITORY)
    count, runtime = result.stdout.split()
    assert int(count) >= 6 and runtime == "False"


def test_everything_public_is_there_whichever_is_loaded_first(tmp_path):
    # The function `voices` and the module it comes from have one name; the function must win, always.
    for first in ("from plugin_bridge.voices import find_voice", "import plugin_bridge.converter", "pass"):
        code = f"""
{first}
from plugin_bridge import Board, VoiceConverter, voices
import plugin_bridge
assert callable(voices) and plugin_bridge.voices is voices
assert VoiceConverter.__module__ == "plugin_bridge.converter" and Board.__module__ == "plugin_bridge.board"
assert {{"Board", "VoiceConverter", "voices"}} <= set(dir(plugin_bridge))
try:
    plugin_bridge.Bord
except AttributeError as error:
    print(error)
"""
        result = python(code, tmp_path, REPOSITORY)
        assert result.stdout.strip() == "module 'plugin_bridge' has no attribute 'Bord'", result.stderr


@pytest.mark.parametrize("name", ["dsp", "models", "presets"])
@pytest.mark.parametrize("kind", ["file", "package", "loaded"])
def test_a_file_that_shadows_one_of_ours_is_named(tmp_path, name, kind):
    if kind == "package":
        shadow = tmp_path / name / "__init__.py"
        shadow.parent.mkdir()
    else:
        shadow = tmp_path / f"{name}.py"
    shadow.write_text("")
    code = f"import {name}\nimport plugin_bridge" if kind == "loaded" else "import plugin_bridge"
    result = python(code, tmp_path, tmp_path, REPOSITORY)
    assert result.returncode == 1
    assert result.stderr.strip().splitlines()[-1] == (
        f"ImportError: plugin_bridge needs its package '{name}' in {REPOSITORY}, but {shadow} shadows it; "
        "rename that, or start Python from another folder"
    )


def test_a_folder_of_such_a_name_without_code_does_no_harm(tmp_path):
    (tmp_path / "models").mkdir()
    assert python("import plugin_bridge", tmp_path, tmp_path, REPOSITORY).returncode == 0
