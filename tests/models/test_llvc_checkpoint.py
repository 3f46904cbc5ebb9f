"""Checkpoints of the LLVC project become voices; whatever else comes in their place is refused in one sentence."""

import copy
import json
import os
import pickle
import zipfile

import numpy as np
import pytest
from typer.testing import CliRunner

torch = pytest.importorskip("torch")

from models.checkpoint import MAX_CHECKPOINT_BYTES, CheckpointError  # noqa: E402
from models.llvc.checkpoint import load_generator, read_config  # noqa: E402
from models.llvc.discriminators import SETS, discriminator_set  # noqa: E402
from models.llvc.network import VARIANTS, Generator  # noqa: E402
from models.pack import VoicePack  # noqa: E402
from plugin_bridge import VoiceConverter  # noqa: E402
from plugin_bridge.cli import app  # noqa: E402

torch.set_num_threads(1)


def published_config():
    """What stands in the authors' `experiments/llvc/config.json`, as far as it can matter, and some that does not."""
    prenet = {
        "convnet_prenet": True,
        "out_channels": [1] * 12,
        "kernel_sizes": [3] * 12,
        "dilations": [1] * 12,
        "dropout": 0.5,
        "combine_residuals": None,
        "skip_connection": "add",
        "use_residual_blocks": True,
    }
    sizes = {
        "label_len": 1,
        "L": 16,
        "enc_dim": 512,
        "num_enc_layers": 8,
        "dec_dim": 256,
        "num_dec_layers": 1,
        "dec_buf_len": 13,
        "dec_chunk_size": 13,
        "out_buf_len": 4,
        "use_pos_enc": True,
        "decoder_dropout": 0.1,
        "convnet_config": prenet,
    }
    data = {"dir": "f_8312_ls360", "sr": 16000, "wav_len": 65536}
    return {"data": data, "model_params": sizes, "optim": {"lr": 5e-4}, "seed": 1234}


def small_config():
    """Of a network that is saved and loaded quickly."""
    config = published_config()
    config["model_params"] |= {"L": 8, "enc_dim": 32, "num_enc_layers": 2, "dec_dim": 16, "dec_buf_len": 5, "dec_chunk_size": 4}
    return config


def write(folder, config, state=None):
    """A folder's checkpoint and config; `state` defaults to that of a network of random weights."""
    checkpoint, config_path = folder / "G_500000.pth", folder / "config.json"
    config_path.write_text(json.dumps(config))
    if state is None:
        torch.manual_seed(1)
        state = Generator(read_config(config_path)).state_dict()
    torch.save({"model": state, "optimizer": {"state": {}}, "learning_rate": 5e-4, "epoch": 53, "step": 500_000}, checkpoint)
    return checkpoint, config_path


def run(*arguments):
    result = CliRunner().invoke(app, ["import-llvc", *map(str, arguments)])
    return result.exit_code, result.output


def test_the_published_config_is_the_network_of_the_paper(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(published_config()))
    config = read_config(tmp_path / "config.json")
    assert {**vars(config), "prenet_dropout": 0.0} == vars(VARIANTS["llvc"])
    labelled = published_config()
    labelled["model_params"]["label_len"] = 512  # of which the authors' network takes no notice
    (tmp_path / "config.json").write_text(json.dumps(labelled))
    assert read_config(tmp_path / "config.json") == config
    without = published_config()
    without["model_params"]["convnet_config"]["convnet_prenet"] = False
    (tmp_path / "config.json").write_text(json.dumps(without))
    assert read_config(tmp_path / "config.json").prenet_layers == 0


def test_a_checkpoint_becomes_a_voice_that_sounds_as_its_network(tmp_path):
    checkpoint, config = write(tmp_path, small_config())
    code, output = run(checkpoint, config, "someone", "--out", tmp_path / "someone.voice", "--licence", "MIT", "--high", "300")
    assert (code, output.strip()) == (0, str(tmp_path / "someone.voice"))
    card = VoicePack.open(tmp_path / "someone.voice").manifest.voices[0]
    assert (card.name, card.licence, card.f0_range_hz) == ("someone", "MIT", (80.0, 300.0))

    network = load_generator(checkpoint, read_config(config))
    audio = (0.3 * np.random.default_rng(0).standard_normal(3000)).astype(np.float32)
    late = torch.from_numpy(np.pad(audio, (8, 100)))
    with torch.no_grad():
        expected = network(late[None, None])
    converted = VoiceConverter(str(tmp_path / "someone.voice"))(audio, 16_000)
    assert np.max(np.abs(converted - expected[0, 0, 8:3008].numpy())) < 1e-5


def test_the_voices_of_a_checkpoint_of_several_are_numbered_and_sound_each_by_its_label(tmp_path, monkeypatch):
    several = small_config()
    several["voices"] = 3
    checkpoint, config = write(tmp_path, several)
    code, output = run(checkpoint, config, "choir", "--out", tmp_path / "choir.voice")
    assert code == 0, output
    assert [card.name for card in VoicePack.open(tmp_path / "choir.voice").manifest.voices] == ["choir-1", "choir-2", "choir-3"]
    audio = (0.3 * np.random.default_rng(0).standard_normal(3000)).astype(np.float32)
    late = torch.from_numpy(np.pad(audio, (8, 100)))[None, None]
    monkeypatch.setenv("PLUGIN_BRIDGE_VOICES", str(tmp_path))
    network = load_generator(checkpoint, read_config(config))
    for number, label in enumerate(torch.eye(3), 1):
        with torch.no_grad():
            expected = network(late, label[None])[0, 0, 8:3008].numpy()
        assert np.max(np.abs(VoiceConverter(f"choir-{number}")(audio, 16_000) - expected)) < 1e-5
    code, output = run(checkpoint, config, "a" * 31, "--out", tmp_path / "long.voice")
    assert code == 2 and "expected a name of up to 32" in output and not (tmp_path / "long.voice").exists()


def test_the_weights_come_through_unchanged(tmp_path):
    checkpoint, config = write(tmp_path, small_config())
    saved = torch.load(checkpoint, weights_only=True)["model"]
    loaded = load_generator(checkpoint, read_config(config)).state_dict()
    assert saved.keys() == loaded.keys()
    assert all(torch.equal(saved[name], loaded[name]) for name in saved)


def test_a_larger_chunk_and_integers_are_options(tmp_path):
    checkpoint, config = write(tmp_path, small_config())
    code, _ = run(checkpoint, config, "someone", "--out", tmp_path / "someone.voice", "--chunk-factor", 3, "--int8")
    assert code == 0
    assert VoicePack.open(tmp_path / "someone.voice").stream_model().chunk == 3 * 4 * 8


class Hostile:
    """Unpickled, it would make a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        import os

        return os.mkdir, (str(self.folder),)


def changed(name, value):
    def change(state):
        state[name] = value(state[name])

    return change


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda state: state.pop("in_conv.0.weight"), "expected a tensor 'in_conv.0.weight' in .*, but there is none"),
        (lambda state: state.update(extra=torch.zeros(1)), "holds 'extra', which the network of its config does not have"),
        (changed("in_conv.0.weight", lambda x: x[:, :, 1:]), r"expected in_conv.0.weight of shape \[32, 1, 24\] .*1, 23\]"),
        (changed("out_conv.0.weight", lambda x: x * np.nan), "expected finite numbers as out_conv.0.weight"),
        (changed("out_conv.0.weight", lambda x: x.to_sparse()), "expected floating-point numbers as out_conv.0.weight"),
        (changed("out_conv.0.weight", lambda x: x.double() * 1e300), "expected finite numbers as out_conv.0.weight"),
        (changed("out_conv.0.weight", lambda x: x.to("meta")), "expected numbers as out_conv.0.weight .* nothing but their shape"),
        (changed("out_conv.0.weight", lambda x: x.to(torch.float8_e4m3fn)), "expected floating-point .* torch.float8_e4m3fn"),
        (changed("out_conv.0.weight", lambda x: x.long()), "expected floating-point .* as out_conv.0.weight .* torch.int64"),
        (changed("out_conv.0.weight", lambda x: "text"), "expected a checkpoint with a generator's state under 'model'"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(tmp_path, change, sentence):
    _, config = write(tmp_path, small_config())
    state = Generator(read_config(config)).state_dict()
    change(state)
    checkpoint, _ = write(tmp_path, small_config(), state)
    with pytest.raises(CheckpointError, match=sentence) as caught:
        load_generator(checkpoint, read_config(config))
    assert "\n" not in str(caught.value)


def test_a_checkpoint_is_never_executed(tmp_path):
    checkpoint, config = write(tmp_path, small_config())
    torch.save({"model": Hostile(tmp_path / "harm")}, checkpoint)
    code, output = run(checkpoint, config, "someone", "--out", tmp_path / "someone.voice")
    assert code == 2
    assert "cannot be read" in output
    assert "Traceback" not in output
    assert not (tmp_path / "harm").exists()
    assert not (tmp_path / "someone.voice").exists()


@pytest.mark.parametrize("kind", SETS)
def test_a_checkpoint_of_our_own_training_is_not_too_large(kind):
    """Generator, its average, discriminators, and two moments of each."""
    with torch.device("meta"):  # sizes alone
        generator, discriminators = Generator(VARIANTS["llvc-48k"]), discriminator_set(kind)
    weights = [sum(weight.numel() for weight in network.state_dict().values()) for network in (generator, discriminators)]
    assert 1.1 * 4 * (4 * weights[0] + 3 * weights[1]) < MAX_CHECKPOINT_BYTES


def compressed(path):
    """A zip that unpacks to a thousand times its size."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(1 << 24))


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"no zip"),
        lambda path: path.write_bytes(pickle.dumps({"model": {}})),
        lambda path: path.write_bytes(path.read_bytes()[:-1000]),
        lambda path: torch.save([1, 2], path),
        lambda path: torch.save({"generator": {}}, path),
        compressed,
    ],
)
def test_what_is_no_checkpoint_is_refused_in_one_sentence(tmp_path, make):
    checkpoint, config = write(tmp_path, small_config())
    make(checkpoint)
    with pytest.raises(CheckpointError, match=r"expected a checkpoint with a generator's state .*G_500000\.pth") as caught:
        load_generator(checkpoint, read_config(config))
    assert "\n" not in str(caught.value)


def test_files_that_are_not_there_are_named(tmp_path):
    checkpoint, config = write(tmp_path, small_config())
    code, output = run(tmp_path / "no.pth", config, "someone", "--out", tmp_path / "a.voice")
    assert (code, "no.pth, but it cannot be read" in output) == (2, True)
    code, output = run(checkpoint, tmp_path / "no.json", "someone", "--out", tmp_path / "a.voice")
    assert (code, "no.json, but it cannot be read" in output) == (2, True)


def test_weights_whose_voice_would_give_no_numbers_make_none(tmp_path):
    _, config = write(tmp_path, small_config())
    state = Generator(read_config(config)).state_dict()
    state["in_conv.0.weight"] *= 1e38
    checkpoint, _ = write(tmp_path, small_config(), state)
    code, output = run(checkpoint, config, "someone", "--out", tmp_path / "a.voice")
    assert (code, "a.voice must turn silence into finite numbers" in output) == (2, True), output
    assert f"{tmp_path}/a.voice" in output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["G_500000.pth", "config.json"]


def test_a_place_that_is_none_is_told_before_anything_is_made(tmp_path):
    (tmp_path / "a.voice").mkdir()
    code, output = run("none.pth", "none.json", "someone", "--out", tmp_path / "a.voice")
    assert (code, "a.voice is a folder, so no voice pack can take its place" in output) == (2, True)
    (tmp_path / "file").touch()
    code, output = run("none.pth", "none.json", "someone", "--out", tmp_path / "file" / "new" / "a.voice")
    assert (code, f"cannot be written, as {tmp_path}/file is no folder" in output) == (2, True)


def test_a_name_that_is_none_leaves_nothing_behind(tmp_path):
    checkpoint, config = write(tmp_path, small_config())
    code, output = run(checkpoint, config, "Some One", "--out", tmp_path / "new" / "a.voice")
    assert (code, "expected a name of up to 32 lower-case letters" in output) == (2, True)
    assert not (tmp_path / "new").exists()
    code, output = run(checkpoint, config, "someone", "--out", tmp_path / "a.zip")
    assert (code, "must end in .voice, not 'a.zip'" in output) == (2, True)


def test_the_config_of_another_network_is_refused(tmp_path):
    _, config = write(tmp_path, small_config())
    larger = copy.deepcopy(small_config())
    larger["model_params"]["enc_dim"] = 64
    checkpoint, _ = write(tmp_path, small_config())
    config.write_text(json.dumps(larger))
    with pytest.raises(CheckpointError, match=r"of shape \[\d+.*, got \[\d+"):
        load_generator(checkpoint, read_config(config))


@pytest.mark.parametrize(
    ("where", "key", "value", "sentence"),
    [
        ("model_params", "num_dec_layers", 2, "model_params.num_dec_layers: Input should be 1"),
        ("model_params", "lookahead", False, "model_params.lookahead: Input should be True"),
        ("model_params", "enc_dim", 10**9, "model_params.enc_dim: Input should be less than or equal to 1024"),
        ("model_params", "enc_dim", 40, "enc_dim must be a multiple of dec_dim, 16, got 40"),
        ("model_params", "L", "16", "model_params.L: Input should be a valid integer"),
        ("model_params", "L", 1024, None),
        ("model_params", "heads", 4, "model_params.heads: Extra inputs are not permitted"),
        ("data", "sr", 0, "data.sr: Input should be greater than or equal to 8000"),
        ("convnet_config", "dilations", [1], "as many kernel_sizes as dilations"),
        ("convnet_config", "dilations", [2] * 12, "dilations.0: Input should be 1"),
    ],
)
def test_a_config_that_is_not_of_this_network_is_refused(tmp_path, where, key, value, sentence):
    config = small_config()
    part = config["model_params"]["convnet_config"] if where == "convnet_config" else config[where]
    part[key] = value
    (tmp_path / "config.json").write_text(json.dumps(config))
    if sentence is None:
        assert read_config(tmp_path / "config.json").chunk_samples == 4096
        return
    with pytest.raises(CheckpointError, match=sentence):
        read_config(tmp_path / "config.json")


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("/dev/zero"), os.mkfifo, lambda path: path.mkdir()])
def test_a_config_that_is_no_file_is_not_waited_for(tmp_path, make):
    make(tmp_path / "config.json")
    with pytest.raises(CheckpointError, match=r"expected the config .*config\.json, but it cannot be read: it is no file"):
        read_config(tmp_path / "config.json")


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, " " * (2 << 20), '{"data": {"sr": NaN}}'])
def test_what_is_no_config_is_refused_in_one_sentence(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"expected .* config .*config\.json") as caught:
        read_config(tmp_path / "config.json")
    assert "\n" not in str(caught.value)
