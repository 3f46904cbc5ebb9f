"""Files are planned and written as a person who types paths relies on."""

import os

import numpy as np
import pytest
from pedalboard.io import AudioFile

from plugin_bridge.files import FileError, Job, check_writable, plan, replacing


def write_audio(path, samples=100, channels=1, rate=48000):
    path.parent.mkdir(parents=True, exist_ok=True)
    with AudioFile(str(path), "w", rate, channels) as file:
        file.write(np.zeros((channels, samples), np.float32))
    return path


def test_one_file_goes_to_the_file_named(tmp_path):
    source = write_audio(tmp_path / "a.wav")
    assert plan([source], tmp_path / "b.flac") == ([Job(source, tmp_path / "b.flac")], [])


@pytest.mark.parametrize("existing", [True, False])
def test_one_file_goes_into_a_folder(tmp_path, existing):
    source = write_audio(tmp_path / "a.wav")
    folder = tmp_path / "out"
    if existing:
        folder.mkdir()
    assert plan([source], folder) == ([Job(source, folder / "a.wav")], [])


def test_a_folder_keeps_its_tree_and_lossy_files_become_wav(tmp_path):
    for name in ("a.wav", "deep/er/b.FLAC", "deep/c.ogg", "d.aiff"):
        write_audio(tmp_path / "in" / name)
    (tmp_path / "in" / "notes.txt").write_text("no audio")
    (tmp_path / "in" / "._a.wav").write_bytes(b"a Mac's resource fork")
    write_audio(tmp_path / "in" / ".trash" / "e.wav")
    jobs, problems = plan([tmp_path / "in"], tmp_path / "out")
    assert problems == []
    assert {(str(j.source.relative_to(tmp_path / "in")), str(j.target.relative_to(tmp_path / "out"))) for j in jobs} == {
        ("a.wav", "a.wav"),
        ("deep/er/b.FLAC", "deep/er/b.FLAC"),
        ("deep/c.ogg", "deep/c.wav"),
        ("d.aiff", "d.aiff"),
    }


def test_several_folders_keep_their_names(tmp_path):
    for name in ("one/a.wav", "two/a.wav", "b.wav"):
        write_audio(tmp_path / name)
    jobs, problems = plan([tmp_path / "one", tmp_path / "two", tmp_path / "b.wav"], tmp_path / "out")
    assert problems == []
    assert [str(j.target.relative_to(tmp_path / "out")) for j in jobs] == ["one/a.wav", "two/a.wav", "b.wav"]


def test_an_output_folder_inside_the_input_is_not_converted_again(tmp_path):
    write_audio(tmp_path / "a.wav")
    write_audio(tmp_path / "out" / "a.wav")
    jobs, problems = plan([tmp_path], tmp_path / "out")
    assert jobs == [Job(tmp_path / "a.wav", tmp_path / "out" / "a.wav")] and problems == []


def test_two_sources_never_share_a_target(tmp_path):
    first, second = write_audio(tmp_path / "a.wav"), write_audio(tmp_path / "a.ogg")
    jobs, problems = plan([first, second], tmp_path / "out")
    assert jobs == [Job(first, tmp_path / "out" / "a.wav")]
    assert len(problems) == 1 and str(second) in problems[0] and str(first) in problems[0]


@pytest.mark.parametrize("link", ["same", "detour", "symlink", "hardlink"])
def test_the_source_is_never_overwritten(tmp_path, link):
    source = write_audio(tmp_path / "a.wav")
    target = tmp_path / "b.wav"
    if link == "same":
        target = source
    elif link == "detour":
        target = tmp_path / "not" / "there" / ".." / ".." / "a.wav"
    elif link == "symlink":
        target.symlink_to(source)
    else:
        os.link(source, target)
    jobs, problems = plan([source], target)
    assert jobs == [] and len(problems) == 1 and "both input and output" in problems[0]


def test_nor_is_another_source(tmp_path):
    """In a folder converted in place, a.ogg would become a.wav."""
    for name in ("a.ogg", "a.wav", "b.ogg"):
        write_audio(tmp_path / name)
    jobs, problems = plan([tmp_path], tmp_path)
    assert jobs == [Job(tmp_path / "b.ogg", tmp_path / "b.wav")]
    assert len(problems) == 2 and all("a.wav is both input and output" in problem for problem in problems)


def test_nor_is_anything_else_that_is_read_or_written(tmp_path):
    source, other = write_audio(tmp_path / "a.wav"), write_audio(tmp_path / "other.wav")
    (tmp_path / "link").symlink_to(other)
    target = tmp_path / "b.wav"
    for read, written in (
        ([other], [other]),
        ([other], [tmp_path / "link"]),
        ([], [source]),
        ([], [tmp_path / "not" / ".." / "a.wav"]),
    ):
        with pytest.raises(FileError, match="is both input and output"):
            plan([source], target, read=read, written=written)
    for written in ([target], [tmp_path / "c", tmp_path / "not" / ".." / "c"]):
        with pytest.raises(FileError, match="would be written twice"):
            plan([source], target, written=written)
    assert plan([source], target, read=[other], written=[tmp_path / "c"]) == ([Job(source, target)], [])
    assert plan([source], target, read=[target])[0] == []


def test_several_files_do_not_go_into_a_file(tmp_path):
    sources = [write_audio(tmp_path / name) for name in ("a.wav", "b.wav")]
    taken = write_audio(tmp_path / "c.wav")
    jobs, problems = plan(sources, taken)
    assert jobs == [] and problems == [f"{taken} is a file, but several recordings need a folder to go to"]


def test_a_folder_without_audio_is_a_problem_of_its_own(tmp_path):
    (tmp_path / "empty").mkdir()
    good = write_audio(tmp_path / "a.wav")
    jobs, problems = plan([tmp_path / "empty", good], tmp_path / "out")
    assert [job.source for job in jobs] == [good]
    assert len(problems) == 1 and "holds no audio files" in problems[0]


@pytest.mark.parametrize("name", ["b.xyz", "b.m4a"])
def test_an_unknown_format_is_told_with_the_known_ones(tmp_path, name):
    jobs, problems = plan([write_audio(tmp_path / "a.wav")], tmp_path / name)
    assert jobs == [] and "wav, flac, aiff, aif, ogg, mp3" in problems[0]


@pytest.mark.parametrize(
    ("name", "rate", "channels", "said"),
    [
        ("a.mp3", 48_000, 3, "cannot hold 3 channels at 48000 Hz: mp3 files have at most 2"),
        ("a.FLAC", 48_000, 9, "cannot hold 9 channels at 48000 Hz: flac files have at most 8"),
        ("a.ogg", 48_000, 256, "ogg files have at most 255"),
        ("a.mp3", 96_000, 2, "sample rate of 96000"),
    ],
)
def test_what_a_format_cannot_hold_is_told_with_the_reason(tmp_path, name, rate, channels, said):
    with pytest.raises(FileError, match=said):
        check_writable(tmp_path / name, rate, channels)
    check_writable(tmp_path / name, 48_000, 2)


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(target) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert target.read_text() == "old"
    with replacing(target) as file:
        file.write(b"new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_folders_on_the_way_are_made(tmp_path):
    with replacing(tmp_path / "verse" / "takes" / "a") as file:
        file.write(b"x")
    assert (tmp_path / "verse" / "takes" / "a").read_bytes() == b"x"


def test_a_written_file_has_the_usual_permissions(tmp_path):
    (tmp_path / "usual").touch()
    with replacing(tmp_path / "a") as file:
        file.write(b"x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_what_cannot_be_written_is_told_in_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for target in (tmp_path / "file" / "a.wav", tmp_path / "file" / "deeper" / "a.wav", tmp_path / "folder"):
        with pytest.raises(FileError) as caught, replacing(target) as file:
            file.write(b"x")
        assert str(target) in str(caught.value) and "\n" not in str(caught.value)
