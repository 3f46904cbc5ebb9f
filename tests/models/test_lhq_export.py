"""The song engine's graphs are its networks, for any number of frames, and a pack carries them."""

from __future__ import annotations

import functools
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
reference = pytest.importorskip("onnx.reference")

from models.graph import load_graph  # noqa: E402
from models.lhq import bank, export  # noqa: E402
from models.lhq.content import Conditioner, ContentConfig  # noqa: E402
from models.lhq.denoiser import BLOCKS, Denoiser, DenoiserConfig  # noqa: E402
from models.lhq.vocoder import Vocoder, VocoderConfig  # noqa: E402
from models.pack import VoicePack  # noqa: E402
from plugin_bridge.voices import find_voice  # noqa: E402

torch.set_num_threads(1)
# The vocoder divides frequencies by f0 and rounds down: gains in log amplitude, a thousandth of a decibel is 1e-4.
ROUNDING = {"vocoder": 1e-3}


def lively(module: Any) -> Any:
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return module.eval()


def graph_inputs(graph: Any, frames: int) -> dict[str, Any]:
    rng = np.random.default_rng(2)
    inputs = {}
    for name, value in graph.inputs.items():
        shape = [size if isinstance(size, int) else frames for size in value.shape]
        inputs[name] = rng.standard_normal(shape).astype(np.float32)
    if "f0" in inputs:
        inputs["f0"] = 200 * np.exp(0.3 * inputs["f0"])
    if "t" in inputs:
        inputs["t"] = np.full(1, 0.7, np.float32)
    return inputs


@functools.cache
def wholes() -> dict[str, tuple[Any, Any]]:
    """Part -> (graph, the network as a function of the graph's inputs), of the sizes that ship."""
    content = lively(Conditioner(ContentConfig(voices=5)))
    denoiser, vocoder = lively(Denoiser(DenoiserConfig(0.1))), lively(Vocoder(VocoderConfig()))
    return {
        "content": (export.export_content(content), content.encoder),
        "condition": (
            export.export_condition(content, {"x": 3, "y": 1}),
            lambda c, f0, v, loud, shift, voice: torch.cat(
                [
                    known := content.condition(
                        c, f0, v, loud, shift, voice[:, :1] * content.voices.weight[3] + voice[:, 1:] * content.voices.weight[1]
                    ),
                    content.condition.mel(known, loud),
                ],
                2,
            ),
        ),
        "denoiser": (
            export.export_denoiser(denoiser),
            lambda z, t, c: denoiser(z, t, c[..., :256], c[..., 256:]).clamp(-1, 1),
        ),
        "vocoder": (export.export_vocoder(vocoder), vocoder),
    }


@pytest.mark.parametrize("part", ["content", "condition", "denoiser", "vocoder"])
def test_graphs_are_the_networks_for_any_number_of_frames(part: str) -> None:
    model, network = wholes()[part]
    graph = load_graph(model.SerializeToString(), part)
    assert json.loads(graph.metadata or "")["part"] == part
    small = {kind: load_graph(f(model).SerializeToString(), part) for kind, f in export.STORED.items()}
    for frames in (1, 16, 200):
        inputs = graph_inputs(graph, frames)
        with torch.no_grad():
            wanted = network(*(torch.from_numpy(x) for x in inputs.values()))
        for output, reference in zip(
            graph.session.run(None, inputs), wanted if isinstance(wanted, tuple) else [wanted], strict=True
        ):
            np.testing.assert_allclose(output, reference.numpy(), atol=ROUNDING.get(part, 2e-5), rtol=1e-4)
        for kind, off in (("half", 2e-3), ("integer", 0.1)):
            for output, reference in zip(small[kind].session.run(None, inputs), graph.session.run(None, inputs), strict=True):
                assert np.sqrt(np.mean((output - reference) ** 2)) < off * np.std(reference)
    size = len(model.SerializeToString())
    assert len(export.half_weights(model).SerializeToString()) < 0.55 * size
    assert len(export.integer_weights(model).SerializeToString()) < 0.33 * size


@pytest.mark.parametrize("part", ["content", "condition", "denoiser", "vocoder"])
def test_the_inside_of_a_slice_is_that_of_the_whole_beyond_the_receptive_field_that_the_graph_names(part: str) -> None:
    graph = load_graph(wholes()[part][0].SerializeToString(), part)
    margin = json.loads(graph.metadata or "")["receptive_frames"]
    frames = 2 * margin + 90
    inputs = graph_inputs(graph, frames)
    whole = graph.session.run(None, inputs)
    cut = {name: x[:, 29:-7] if x.ndim > 1 and x.shape[1] == frames else x for name, x in inputs.items()}
    for output, reference in zip(graph.session.run(None, cut), whole, strict=True):
        inside = slice(margin, output.shape[1] - margin)
        # Not bit-equal: a mean over 257 frames is added up in another order.
        np.testing.assert_allclose(output[:, inside], reference[:, 29:-7][:, inside], atol=ROUNDING.get(part, 2e-5))


def test_an_integer_weight_is_off_by_half_a_step_of_its_channel() -> None:
    """Read back with onnx's own tools: 127 steps to the largest weight of an output channel."""
    layer = torch.nn.Linear(40, 30, bias=False)
    with torch.no_grad():
        layer.weight *= torch.logspace(-2, 2, 30)[:, None]
    inputs = {"x": torch.eye(40)[None]}
    model = export.traced(layer, "content", inputs, ["y"], {"receptive_frames": 0})
    read = reference.ReferenceEvaluator(export.integer_weights(model)).run(None, {"x": inputs["x"].numpy()})[0][0]
    step = layer.weight.detach().abs().amax(1).numpy() / 127
    assert np.all(np.abs(read - layer.weight.detach().numpy().T) <= 0.501 * step)


def test_a_pack_gets_the_song_engine_and_keeps_what_it_has(voice_folder: Path, tmp_path: Path) -> None:
    """From the checkpoints of three trainings; its voices in another order than theirs."""
    conditioner = lively(Conditioner(ContentConfig(voices=4)))
    denoiser, vocoder = lively(Denoiser(DenoiserConfig(0.1, blocks=BLOCKS[:2]))), lively(Vocoder(VocoderConfig()))
    about = {"config": asdict(conditioner.config), "voices": ["bank_b", "other", "bank_a"]}
    torch.save({"average": conditioner.state_dict(), **about}, tmp_path / "content.pt")
    torch.save({"average": vocoder.state_dict(), "config": asdict(vocoder.config)}, tmp_path / "vocoder.pt")
    student = {"denoiser": denoiser.state_dict(), "sizes": asdict(denoiser.config), "conditioner": conditioner.state_dict()}
    for name in ("student.pt", "mobile.pt"):
        torch.save(student, tmp_path / name)
    before = find_voice("bank_a").pack
    sizes = bank.add_songs(before, tmp_path, tmp_path / "out.voice")
    after = VoicePack.open(tmp_path / "out.voice")
    assert after.read("stream.onnx") == before.read("stream.onnx") and after.manifest.voices == before.manifest.voices
    for size in ("lhq", "mobile"):
        assert after.song_model(size).voices == ("bank_a", "bank_b")
        assert sizes[size] == pytest.approx(sum(len(after.read(m)) for m in after.manifest.songs[size].values()) / 1e6)
    graph = load_graph(after.read("song_lhq_condition.onnx"), "condition")
    inputs = graph_inputs(graph, 5) | {"voice": np.array([[1, 0]], np.float32)}
    c, f0, voiced, loud, shift = (torch.from_numpy(inputs[k]) for k in ("content", "f0", "voiced", "loudness", "shift"))
    with torch.no_grad():
        wanted = conditioner.condition(c, f0, voiced, loud, shift, conditioner.voices.weight[2:3])
    np.testing.assert_allclose(graph.session.run(None, inputs)[0][..., :256], wanted, atol=0.02)
