"""A new voice for the song engine: from recordings to a pack that sings, exact after a kill, with an encoder of one's own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("swift_f0")

import soxr  # noqa: E402
from encoder_files import encoder_file  # noqa: E402
from pedalboard.io import AudioFile  # noqa: E402
from small_recipes import use_small_recipes  # noqa: E402

from dsp.envelope import level_correlation  # noqa: E402
from dsp.pitch import compare_pitch, track_pitch  # noqa: E402
from dsp.singer import Note, sing  # noqa: E402
from models.device import CPU  # noqa: E402
from models.graph import load_graph  # noqa: E402
from models.lhq import adapt, train_denoiser  # noqa: E402
from models.lhq.adapt import Listener, SongTraining, Units, train_voice  # noqa: E402
from models.lhq.weights import load_base, save_base  # noqa: E402
from models.pack import VoicePack  # noqa: E402
from models.source_filter.data import Recordings  # noqa: E402
from plugin_bridge.recording import load_mono  # noqa: E402
from plugin_bridge.render import SongRenderer  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four takes of 6 s."""
    folder = tmp_path_factory.mktemp("recordings")
    for number in range(4):
        notes = [Note(50 + (5 * k + number) % 12, 0.5, "aeiou"[k % 5], "smtl"[k % 4]) for k in range(12)]
        with AudioFile(str(folder / f"{number}.wav"), "w", 48_000, 1) as file:
            file.write(sing(notes, seed=number, tract=1.1).audio)
    return folder


@pytest.fixture(scope="module", autouse=True)
def brief(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Small batches, told of after every step."""
    with pytest.MonkeyPatch.context() as patch:
        use_small_recipes(patch, tmp_path_factory.mktemp("recipes"), batch=3)
        patch.setattr(adapt, "REPORT_EVERY", 1)
        yield


def train(
    folder: Path,
    work: Path,
    steps: int,
    encoder: Path | None = None,
    stop_after: int | None = None,
    tell: Callable[[str], None] = print,
    seen: list[SongTraining] | None = None,
) -> list[SongTraining]:
    """Reports of a training into `work`, after those `seen`; one that is killed after so many steps saves after each of them."""
    reports = [] if seen is None else seen

    def report(now: SongTraining) -> None:
        reports.append(now)
        if now.stage != "packing" and now.step == stop_after:
            raise KeyboardInterrupt

    options: dict[str, Any] = {"threads": 1, "device": CPU, "tell": tell, "progress": report}
    with pytest.MonkeyPatch.context() as patch:
        if stop_after is not None:
            patch.setattr(adapt, "SAVE_SECONDS", 0.0)
        train_voice("me", folder, work, encoder=encoder, steps=steps, minutes=None, **options)
    return reports


@pytest.fixture(scope="module")
def trained(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[SongTraining]]:
    """A training of ten steps through all phases."""
    work = tmp_path_factory.mktemp("work")
    return work, train(recordings, work, 10)


def test_the_shipped_weights_are_those_of_the_bundled_pack() -> None:
    """Else a new voice would begin with other networks than the ones that ship, and hear with another encoder."""
    base = load_base()
    listener = Listener(base, None)
    pack = listener.shipped
    graph = load_graph(pack.read(pack.manifest.songs["lhq"]["vocoder"]), "vocoder")
    rng = np.random.default_rng(0)
    mel = np.clip(rng.normal(-0.2, 0.3, (1, 40, 100)), -1, 1).astype(np.float32)
    inputs = {"mel": mel, "f0": np.full((1, 40), 200, np.float32), "voiced": np.ones((1, 40), np.float32)}
    with torch.no_grad():
        wanted = base.vocoder(*(torch.from_numpy(x) for x in inputs.values()))
    np.testing.assert_allclose(graph.session.run(["harmonic"], inputs)[0], wanted[0], atol=1e-3)
    mobile = load_graph(pack.read(pack.manifest.songs["mobile"]["denoiser"]), "denoiser")
    assert json.loads(mobile.metadata or "")["receptive_frames"] == base.denoiser.with_blocks(base.mobile).receptive_frames


def test_the_base_survives_its_file(tmp_path: Path) -> None:
    base = load_base()
    save_base(base, tmp_path / "base.npz")
    again = load_base(tmp_path / "base.npz")
    assert (again.mobile, again.encoder) == (base.mobile, base.encoder)
    for one, other in zip(base.networks().values(), again.networks().values(), strict=True):
        torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)
    (tmp_path / "none.npz").write_bytes(b"PK nothing")
    with pytest.raises(ValueError, match=r"expected the networks of a song engine in .*none\.npz"):
        load_base(tmp_path / "none.npz")


def test_a_voice_from_a_folder_sings(trained: tuple[Path, list[SongTraining]]) -> None:
    work, seen = trained
    pack = VoicePack.open(work / "me.voice")
    shipped = Listener(load_base(), None).shipped
    for size in ("lhq", "mobile"):
        assert pack.song_model(size).voices == ("me",) and pack.song_model(size).encoder is None
        names = pack.manifest.songs[size], shipped.manifest.songs[size]
        assert pack.read(names[0]["content"]) == shipped.read(names[1]["content"])
        # The networks have learned.
        for part in ("denoiser", "vocoder"):
            assert pack.read(names[0][part]) != shipped.read(names[1][part])
    assert [now.stage for now in seen][-1] == "vocoder" and seen[-1].step == seen[-1].steps == 14
    card = pack.manifest.voices[0]
    low, high = card.f0_range_hz
    assert 130 < low < 180 and 240 < high < 300 and "4 recordings, 0.4 minutes" in card.training_data
    assert card.quality["song_held_out_db"] < card.quality["song_held_out_db_before"]


def test_a_training_killed_again_and_again_goes_on_exactly(
    recordings: Path, trained: tuple[Path, list[SongTraining]], tmp_path: Path
) -> None:
    """While the denoiser adapts, while the smaller one learns from it, and in the vocoder's turn: the same bytes in the end."""
    for name in ("packed", "takes"):
        shutil.copytree(trained[0] / name, tmp_path / name)
    shutil.copy(trained[0] / "encoder.json", tmp_path)
    told: list[SongTraining] = []
    for killed_after in (3, 9, 12):
        with pytest.raises(KeyboardInterrupt):
            train(recordings, tmp_path, 10, stop_after=killed_after, seen=told)
        assert told[-1].step == killed_after
    train(recordings, tmp_path, 10, seen=told)
    # The step at which it was killed was told of, but not saved; no other was taken twice.
    assert [now.step for now in told] == [1, 2, 3, 3, 4, 5, 6, 7, 8, 9, 9, 10, 11, 12, 12, 13, 14]
    assert (tmp_path / "me.voice").read_bytes() == (trained[0] / "me.voice").read_bytes()


def test_what_an_earlier_call_left_undone_is_made_up_for(
    recordings: Path, trained: tuple[Path, list[SongTraining]], tmp_path: Path
) -> None:
    """The denoiser's steps first; and a kill then does not lead back to what followed them before."""
    shutil.copytree(trained[0], tmp_path, dirs_exist_ok=True)
    with pytest.raises(KeyboardInterrupt):
        train(recordings, tmp_path, 20, stop_after=9)  # its first step
    state = torch.load(tmp_path / train_denoiser.CHECKPOINT, weights_only=True)
    assert (state["phase"], state["step"]) == (0, 8)


def test_with_an_encoder_of_ones_own_the_pack_says_which(recordings: Path, tmp_path: Path) -> None:
    encoder = encoder_file(tmp_path / "vec-256-layer-9.onnx")
    seen = train(recordings, tmp_path / "work", 4, encoder)
    pack = VoicePack.open(tmp_path / "work" / "me.voice")
    card = pack.song_model("lhq").encoder
    assert card is not None and (card.kind, card.dimensions, card.layer) == ("onnx", 256, 9)
    assert str(card) == "vec-256-layer-9.onnx (256 values a frame of layer 9)"
    assert all("content" not in parts for parts in pack.manifest.songs.values())
    assert seen[-1].stage == "vocoder"
    voice = str(tmp_path / "work" / "me.voice")
    audio = load_mono(recordings / "0.wav", 40_000)[: 3 * 40_000]
    sung = SongRenderer(voice, encoder=encoder).convert(audio[None], 40_000)[0]
    tracks = (track_pitch(x, 40_000, method="dio") for x in (audio, sung))
    assert compare_pitch(*tracks).median_cents < 10 and level_correlation(audio, sung, 40_000) > 0.8
    with pytest.raises(ValueError, match=r"expected the content encoder with which the training in .* was begun"):
        train(recordings, tmp_path / "work", 4, encoder_file(tmp_path / "other.onnx", 768))


class Mixing(Listener):
    """Hears our own content, its channels mixed, some loud and some faint, with offsets."""

    def __call__(self, audio: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        rng = np.random.default_rng(5)
        mixed = self.own(audio) @ rng.standard_normal((48, 64)) * 2.0 ** rng.integers(-3, 4, 64) + rng.standard_normal(64)
        return mixed.astype(np.float32)


def test_another_encoders_content_begins_as_ours(
    recordings: Path, trained: tuple[Path, list[SongTraining]], tmp_path: Path
) -> None:
    """Where ours can be had from it by straight lines, the condition is what it was; also with the units in the network."""
    base = load_base()
    listener, packed = Mixing(base, None), Recordings(trained[0] / "packed")
    takes = adapt.packed(packed, listener, tmp_path, lambda now: None)
    units = Units.of(takes)
    before = adapt.adaptable(base)
    after = adapt.for_content(before, takes, packed, units, listener)
    take = takes.takes[0]
    given = torch.from_numpy(takes.features[take.start : take.start + take.frames].astype(np.float32))[None]
    at40 = soxr.resample(packed.read(packed.clips[0])[0], 48_000, 40_000)
    f0 = torch.full((1, take.frames), 200.0)
    known = (f0, f0 * 0 + 1, f0 * 0 - 3, torch.zeros(1), before.voices.weight)
    with torch.no_grad():
        wanted = before.condition(torch.from_numpy(listener.own(at40))[None], *known)
        made = after.condition(units(given), *known)
        folded = units.folded(after).condition(given, *known)
    assert (made - wanted).square().mean().sqrt() < 0.1 * wanted.std()
    torch.testing.assert_close(folded, made, atol=1e-3, rtol=1e-3)


def test_what_the_recordings_lack_is_told_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(3):
        with AudioFile(str(tmp_path / "in" / f"{number}.wav"), "w", 48_000, 1) as file:
            file.write(np.zeros(8 * 48_000, np.float32))
    told: list[str] = []
    with pytest.raises(ValueError, match="at least 20 s in three or more recordings of me, found 0 s"):
        train(tmp_path / "in", tmp_path / "work", 2, tell=told.append)
    assert told == [f"{number}.wav is left out: it holds no sound" for number in range(3)]
