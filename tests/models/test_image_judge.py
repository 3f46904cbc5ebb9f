"""What the discriminators of spectrograms see."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from models.image_judge import BANDS, Spectrograms, spectrogram_judges  # noqa: E402


def mel(hz: float) -> float:
    """O'Shaughnessy 1987."""
    return 2595.0 * np.log10(1.0 + hz / 700.0)


@pytest.mark.parametrize("rate", [16_000, 48_000])
def test_a_tone_is_brightest_in_its_own_band_and_steady(rate: int, monkeypatch: pytest.MonkeyPatch) -> None:
    audio = 0.5 * torch.sin(2 * np.pi * 3_000 * torch.arange(rate) / rate)[None]
    judges = spectrogram_judges(rate, 1)
    assert [judge.fft / rate for judge in judges] == pytest.approx([0.012, 0.024, 0.048], rel=0.42)  # powers of two
    for judge in judges:
        seen: list[torch.Tensor] = []
        monkeypatch.setattr(judge, "judge", lambda image, speaker, seen=seen: seen.append(image[0, 0]))
        judge(audio, torch.zeros(1, dtype=torch.int64))
        image = seen[0]
        assert image.shape[0] == BANDS
        band = mel(3_000) / mel(rate / 2) * (BANDS + 1) - 1
        assert abs(int(image.mean(1).argmax()) - band) <= max(1.0, rate / judge.fft / 60)
        assert image[int(band)].std() < 0.05


def test_a_waveform_is_judged_at_every_resolution_and_half_the_level_looks_softer() -> None:
    torch.manual_seed(0)
    judges = Spectrograms(16_000)
    audio = 0.1 * torch.randn(2, 1, 8_000)
    verdicts = judges(audio)
    assert len(verdicts) == 3 and all(len(verdict.scores) == 2 for verdict in verdicts)
    assert not torch.allclose(verdicts[0].scores, judges(0.5 * audio)[0].scores)
