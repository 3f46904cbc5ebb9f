"""Users' content encoders: ONNX files of ContentVec's shape made here, whose frames say where in the audio they heard what."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from encoder_files import encoder_file

from models.graph import ModelError
from models.lhq.encoders import FIELD, HOP, RATE, Encoder, load_encoder, on_grid


@pytest.mark.parametrize("channels", [256, 768])
def test_frames_lie_where_the_sound_is(tmp_path: Path, channels: int) -> None:
    """The mean of a ramp around a moment is the ramp at that moment: frame k of 100 fps must hold the ramp at k / 100 s."""
    encoder = load_encoder(encoder_file(tmp_path / "vec.onnx", channels))
    assert encoder.dimensions == channels
    ramp = np.linspace(0, 1, RATE, dtype=np.float32)
    content = encoder(ramp)
    assert content.shape == (101, channels) and content.dtype == np.float32
    inner = slice(2, 96)
    np.testing.assert_allclose(content[inner, 0], np.arange(101)[inner] / 100, atol=2e-4)
    np.testing.assert_allclose(content[inner, 7], 8 * content[inner, 0], rtol=1e-4)


@pytest.mark.parametrize("samples", [0, 1, 159, 160, 161, 319, 320, 321, 16_000, 16_001, 12_345])
def test_as_many_frames_as_the_take_has_at_40_khz(tmp_path: Path, samples: int) -> None:
    encoder = load_encoder(encoder_file(tmp_path / "vec.onnx"))
    assert len(encoder(np.zeros(samples, np.float32))) == samples * 40_000 // 16_000 // 400 + 1


def test_a_long_take_is_encoded_in_stretches_without_a_seam(tmp_path: Path) -> None:
    encoder = load_encoder(encoder_file(tmp_path / "vec.onnx"))
    heard: list[int] = []

    def embed(audio: np.ndarray) -> np.ndarray:
        heard.append(len(audio))
        return encoder._embed(audio)

    audio = np.random.default_rng(0).standard_normal(70 * RATE).astype(np.float32)
    whole = on_grid(encoder._embed(np.pad(audio, (FIELD // 2, FIELD)))[: 70 * 50], 7001)
    pieces = Encoder(encoder.dimensions, embed)(audio)
    np.testing.assert_allclose(pieces, whole, atol=1e-4)
    assert len(heard) == 3 and max(heard) <= 35 * RATE


def test_grid_by_hand() -> None:
    content = np.array([[0.0], [2.0], [6.0]], np.float32)
    np.testing.assert_allclose(on_grid(content, 7)[:, 0], [0, 1, 2, 4, 6, 6, 6])
    np.testing.assert_allclose(on_grid(content[:1], 3)[:, 0], [0, 0, 0])


def test_a_file_that_leaves_its_width_open_is_tried(tmp_path: Path) -> None:
    assert load_encoder(encoder_file(tmp_path / "vec.onnx", 768, declared="C")).dimensions == 768


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "audio"}, r"one float32 input 'source' \[1, 1, N\] and an output 'embed' .* has audio \[1, 1, 'N'\]"),
        ({"embed": "x"}, r"an output 'embed' \[1, T, C\], but .* has source \[1, 1, 'N'\], x \[1, 'T', 256\]"),
        ({"rank": 2}, r"an output 'embed' \[1, T, C\], but .* embed \['T', 256\]"),
        ({"channels": 100}, "frames of 256 or 768 values, but those of .* have 100"),
    ],
)
def test_a_wrong_graph_is_refused_with_what_was_expected(tmp_path: Path, options: dict, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ModelError, match=message) as caught:
        load_encoder(encoder_file(tmp_path / "vec.onnx", **options))
    assert "\n" not in str(caught.value)


def test_a_graph_with_another_hop_is_refused_when_it_runs(tmp_path: Path) -> None:
    encoder = load_encoder(encoder_file(tmp_path / "vec.onnx", field=1200))
    with pytest.raises(ModelError, match="should give 50 finite frames of 256 values, got an array of the shape"):
        encoder(np.zeros(RATE, np.float32))


def test_what_is_no_encoder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(ModelError, match=r"text\.onnx is not an ONNX"):
        load_encoder(tmp_path / "text.onnx")
    with pytest.raises(ModelError, match=r"expected a content encoder in .* cannot be read"):
        load_encoder(tmp_path / "none.onnx")
    with pytest.raises(ModelError, match=r"its config\.json cannot be read"):
        load_encoder(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(ModelError, match=r"its config\.json cannot be read"):
        load_encoder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ModelError, match=r"expected a model of the type 'hubert' in .*, found 'bert'"):
        load_encoder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "hubert"}))
    with pytest.raises(ModelError, match=r"expected model\.safetensors or pytorch_model\.bin in .*, and it has neither"):
        load_encoder(tmp_path)


@pytest.fixture(scope="module")
def hubert():
    """A tiny HuBERT with the real one's convolutions."""
    pytest.importorskip("torch").manual_seed(0)
    transformers = pytest.importorskip("transformers")
    config = transformers.HubertConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
    )  # fmt: skip
    return transformers.HubertModel(config).eval()


def pickled(hubert, folder: Path, **changes: object) -> None:
    """As ContentVec is passed around: a pickle with the older names of the weight normalisation, and a projection on top."""
    import torch

    older = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    state = {"final_proj.weight": torch.zeros(16, 32), "final_proj.bias": torch.zeros(16)}
    for name, weights in hubert.state_dict().items():
        for new, old in older.items():
            name = name.replace(new, old)
        state[name] = weights
    hubert.config.save_pretrained(folder)
    torch.save({name: value for name, value in (state | changes).items() if value is not None}, folder / "pytorch_model.bin")


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_a_hugging_face_folder(tmp_path: Path, hubert, weights: str) -> None:
    """As many frames, and the same numbers as its own library gives."""
    import torch

    if weights == "pytorch_model.bin":
        pickled(hubert, tmp_path)
    else:
        hubert.save_pretrained(tmp_path)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["config.json", weights]
    encoder = load_encoder(tmp_path)
    assert encoder.dimensions == 32
    audio = np.random.default_rng(0).standard_normal(RATE).astype(np.float32)
    with torch.no_grad():
        heard = np.pad(audio, FIELD // 2)[: 49 * HOP + FIELD]  # what 50 frames hear, the first centred on the first sample
        wanted = hubert(torch.from_numpy(heard)[None]).last_hidden_state[0].numpy()
    np.testing.assert_allclose(encoder.frames(audio), wanted, atol=1e-5)
    assert encoder(audio).shape == (101, 32)


class Hostile:
    """Unpickled, it would make a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return os.mkdir, (str(self.folder),)


def test_a_hugging_face_folder_is_never_executed_and_lacks_nothing(tmp_path: Path, hubert) -> None:
    pickled(hubert, tmp_path, more=Hostile(tmp_path / "harm"))
    with pytest.raises(ModelError, match=r"expected a HuBERT in .*pytorch_model\.bin, but it cannot be read"):
        load_encoder(tmp_path)
    assert not (tmp_path / "harm").exists()
    pickled(hubert, tmp_path, **{"encoder.layer_norm.weight": None, "masked_spec_embed": None})
    with pytest.raises(ModelError, match=r"in .*pytorch_model\.bin, but it lacks 'encoder\.layer_norm\.weight'"):
        load_encoder(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes((tmp_path / "pytorch_model.bin").read_bytes()[:-1000])
    with pytest.raises(ModelError, match=r"expected a HuBERT in .*, but it cannot be loaded: .*pytorch_model\.bin"):
        load_encoder(tmp_path)
