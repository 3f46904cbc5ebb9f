"""The self-supervised loss: encoders by path, gradients through them, and what is refused."""

import json
from dataclasses import asdict

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dsp.singer import Note, sing  # noqa: E402
from models.lhq.content import Conditioner, ContentConfig, LongTermMean  # noqa: E402
from models.lhq.features import content_features  # noqa: E402
from models.llvc.encoder_loss import ContentFeatures, EncoderLoss, SpeechFeatures, load_encoder  # noqa: E402
from models.llvc.train import read_recipe  # noqa: E402

torch.set_num_threads(1)
SMALL = ContentConfig(voices=1, encoder_width=16, encoder_hidden=32, condition_width=16, condition_hidden=32)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("content") / "content.pt"
    torch.save({"config": asdict(SMALL), "average": Conditioner(SMALL).state_dict(), "voices": ["a"]}, path)
    return path


@pytest.mark.parametrize("rate", [16_000, 40_000, 48_000])
def test_content_features_are_the_song_engines(checkpoint, rate):
    """At its own rate the same numbers; at another, where a band holds power, nearly."""
    notes = [Note(57, 0.3, "a"), Note(60, 0.3, "i", "s")]
    song, here = sing(notes, 40_000, seed=1).audio, sing(notes, rate, seed=1).audio
    wanted = content_features(song)
    features = load_encoder(checkpoint, rate).features(torch.from_numpy(here)[None])[0].numpy()
    assert features.shape == wanted.shape
    if rate == 40_000:
        np.testing.assert_allclose(features, wanted, atol=2e-3)
    loud = wanted[5:-5] > wanted.max() - 5
    assert np.median(np.abs(features[5:-5] - wanted[5:-5])[loud]) < (0.01 if rate == 40_000 else 0.35)


@pytest.mark.parametrize("distance", ["l1", "mse"])
def test_loss_is_the_distance_of_the_features_and_falls_along_its_gradient(checkpoint, distance):
    torch.manual_seed(1)
    encoder = load_encoder(checkpoint, 16_000)
    loss = EncoderLoss(encoder, distance).train()
    made, recorded = (0.1 * torch.randn(2, 6400) for _ in range(2))
    made.requires_grad_()
    off = encoder(made) - encoder(recorded)
    value = loss(made, recorded)
    assert value.item() == pytest.approx((off.abs() if distance == "l1" else off**2).mean().item(), rel=1e-5)
    assert loss(recorded, recorded) == 0
    value.backward()
    assert loss(made - 1e-3 * made.grad / made.grad.norm(), recorded) < value
    assert all(parameter.grad is None for parameter in loss.parameters())


def test_a_speech_encoder_hears_16_khz_whatever_comes():
    """A tone below the new Nyquist frequency passes, one above it does not."""
    front_end = torch.nn.Identity()
    features = SpeechFeatures(front_end, 48_000)
    time = torch.arange(9600) / 48_000
    for hz, gain in ((440.0, 1.0), (6000.0, 1.0), (10_000.0, 0.0)):
        heard = features(torch.sin(2 * torch.pi * hz * time)[None])[0]
        assert len(heard) == 3200
        assert heard[200:-200].square().mean().sqrt() == pytest.approx(gain * 0.5**0.5, abs=0.01), hz
    assert torch.equal(SpeechFeatures(front_end, 16_000)(time[None]), time[None])
    with pytest.raises(ValueError, match="expected a multiple of 16000 Hz"):
        SpeechFeatures(front_end, 22_050)


def test_a_hugging_face_folder(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.HubertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, conv_dim=(8, 8), conv_stride=(5, 4),
        conv_kernel=(10, 8), num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    model = transformers.HubertModel(config).eval()
    model.save_pretrained(tmp_path)
    audio = 0.1 * torch.randn(2, 4000)
    features = load_encoder(tmp_path, 16_000)(audio)
    assert torch.allclose(features, model.feature_extractor(audio), atol=1e-6)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    assert torch.equal(load_encoder(tmp_path, 16_000)(audio), features)
    lacking = dict(model.state_dict())
    del lacking["feature_extractor.conv_layers.1.conv.weight"]
    torch.save(lacking, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"its weights lack feature_extractor\.conv_layers\.1\.conv\.weight"):
        load_encoder(tmp_path, 16_000)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    assert EncoderLoss(load_encoder(tmp_path, 48_000), "mse")(0.1 * torch.randn(1, 9600), 0.1 * torch.randn(1, 9600)) > 0


def test_what_is_refused(tmp_path, checkpoint):
    with pytest.raises(ValueError, match=r"needs gradients, which hubert\.onnx cannot give"):
        load_encoder(tmp_path / "hubert.onnx", 16_000)
    with pytest.raises(ValueError, match="expected a stage-1 checkpoint"):
        load_encoder(tmp_path / "missing.pt", 16_000)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nothing"}))
    with pytest.raises(ValueError, match=r"needs transformers|expected a speech encoder"):
        load_encoder(tmp_path, 16_000)
    with pytest.raises(ValueError, match="wants audio of 15200 Hz or more, got 8000 Hz"):
        load_encoder(checkpoint, 8_000)
    assert isinstance(load_encoder(checkpoint, 16_000), ContentFeatures)
    assert isinstance(load_encoder(checkpoint, 16_000).content.normalise, LongTermMean)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[training]\nbtach = 3", "there is nothing called 'btach'"),
        ("[training]\nbatch = 2.5", "batch must be of the kind of 9, not 2.5"),
        ("[training]\nmel = true", "mel must be of the kind of 10.0, not True"),
        ("[training]\nmel = -1", "mel must be at least 0, not -1"),
        ("[training]\nclip = 0", "batch and clip must be at least 1"),
        ("[training]\njudged = 36", "segment and judged must be at least 37"),
        ('[training]\ndistance = "l2"', "distance must be one of l1, mse, not 'l2'"),
        ("[other]", "it has none"),
        ("training = 3", "it has none"),
        ("[training", "Expected"),
    ],
)
def test_recipes_that_are_refused(tmp_path, text, problem):
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"expected a recipe with a \[training\] table in .*, but .*") as error:
        read_recipe(path)
    assert problem in str(error.value)


def test_a_recipe_may_be_what_is_different(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text('[training]\nbatch = 4\nlearning_rate = 1\ndistance = "l1"')
    recipe, published = read_recipe(path), read_recipe()
    assert (recipe.batch, recipe.learning_rate, recipe.distance) == (4, 1, "l1")
    assert (recipe.clip, recipe.mel, recipe.decay) == (published.clip, published.mel, published.decay)
    assert (published.batch, published.clip, published.segment, published.learning_rate) == (9, 65_536, 10_240, 5e-4)
    assert (published.encoder, published.distance, published.alone) == (1e5, "mse", 0)
