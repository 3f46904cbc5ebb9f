"""LLVC's streaming graph: the network's own numbers at any chunk factor, and a voice that the converter plays on time."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from packs import write_test_pack

torch = pytest.importorskip("torch")

from models.llvc.export import ExportOptions, export_stream  # noqa: E402
from models.llvc.network import VARIANTS, Generator, GeneratorConfig  # noqa: E402
from models.stream import StreamModel  # noqa: E402
from plugin_bridge import VoiceConverter  # noqa: E402

torch.set_num_threads(1)

# At 5 frames a step the dilations 1, 2 and 4 reach into the step itself and 8 does not; at 10 all do.
SMALL = GeneratorConfig(
    sample_rate=8_000, stride=4, width=32, encoder_layers=4, decoder_width=16, chunk=5, context=7, output_context=3, prenet_layers=3
)


def generator(config, seed=0):
    """A network in conversion mode, biases and gains not at their neutral starting values, its output as loud as speech."""
    torch.manual_seed(seed)
    network = Generator(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
        network.out_conv[0].weight.mul_(0.06)
    return network


def noise(samples, seed=0):
    return (0.3 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def load(network, names=("a",), **options):
    return StreamModel.from_bytes(export_stream(network, list(names), ExportOptions(**options)), "llvc.onnx")


def run(stream, audio):
    output = []
    for chunk in audio.reshape(-1, len(stream.audio_in)):
        stream.audio_in[:] = chunk
        stream.step()
        output.append(stream.audio_out.copy())
    return np.concatenate(output)


def offline(network, audio, voice=None):
    """What a stream must give: the network's conversion of the whole input, one stride late."""
    stride = network.config.stride
    late = np.concatenate([np.zeros(stride, np.float32), audio, np.zeros(network.config.chunk_samples, np.float32)])
    with torch.no_grad():
        return network(torch.from_numpy(late)[None, None], voice)[0, 0].numpy()[: len(audio)]


@pytest.mark.parametrize("chunk_factor", [1, 2, 3])
@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        replace(SMALL, prenet_layers=0, encoder_layers=6),
        replace(SMALL, context=3, decoder_width=8, output_context=9, encoder_layers=2),
        replace(SMALL, stride=2, prenet_layers=8, encoder_layers=2),  # which reaches back beyond the start
    ],
)
def test_the_graph_is_the_network_at_any_chunk_factor(config, chunk_factor):
    network = generator(config)
    model = load(network, chunk_factor=chunk_factor)
    assert model.chunk == chunk_factor * config.chunk_samples
    audio = noise(model.chunk * (2 * config.receptive_field // model.chunk))
    expected = offline(network, audio)
    assert np.abs(expected).max() > 0.05
    assert np.max(np.abs(run(model.open(), audio) - expected)) < 2e-6


@pytest.mark.parametrize("name", ["llvc", "llvc-48k"])
def test_the_graph_is_the_network_at_full_size(name):
    config = VARIANTS[name]
    network = generator(config)
    model = load(network)
    assert (model.sample_rate, model.chunk, model.lookahead) == (config.sample_rate, config.chunk_samples, config.stride)
    audio = noise(config.chunk_samples * (config.receptive_field // config.chunk_samples + 10))
    assert np.max(np.abs(run(model.open(), audio) - offline(network, audio))) < 1e-5


def test_integer_weights_are_a_third_of_the_size_and_cost_little():
    network = generator(VARIANTS["llvc-nc"])
    graph = export_stream(network, ["a"], ExportOptions(integer=True))
    assert len(graph) < 4_000_000
    audio = noise(208 * 50)
    expected = offline(network, audio)
    error = run(StreamModel.from_bytes(graph, "llvc.onnx").open(), audio) - expected
    assert 30 < 10 * np.log10(np.sum(expected**2) / np.sum(error**2)) < 80


def test_reset_is_a_new_stream():
    model, audio = load(generator(SMALL)), noise(SMALL.chunk_samples * 20)
    stream = model.open()
    first = run(stream, audio)
    stream.reset()
    assert np.array_equal(run(stream, audio), first)


def test_voices_and_their_mixtures_sound_as_in_the_network():
    network = generator(replace(SMALL, voices=3))
    stream = load(network, ["a", "b", "c"]).open()
    audio = noise(SMALL.chunk_samples * 12)
    for weights in ([1, 0, 0], [0, 1, 0], [0.25, 0.25, 0.5]):
        stream.reset()
        stream.voice[:] = weights
        assert np.max(np.abs(run(stream, audio) - offline(network, audio, torch.tensor([weights]).float()))) < 2e-6


@pytest.mark.parametrize(
    ("name", "block", "samples"),
    # Of the look-ahead alone where blocks are whole chunks; a chunk less one sample on top where they may have any length.
    [("llvc-nc", 208, 16), ("llvc-nc", 416, 16), ("llvc-nc", None, 16 + 207), ("llvc-48k", 512, 64), ("llvc-48k", None, 64 + 511)],
)
def test_a_converter_tells_the_latency_of_the_paper(packs_of_full_size, name, block, samples):
    converter, config = VoiceConverter(str(packs_of_full_size[name])), VARIANTS[name]
    converter.prepare(config.sample_rate, block)
    assert converter.latency_samples == samples
    assert 1e3 * samples / config.sample_rate < {"llvc-nc": 14, "llvc-48k": 12}[name]


@pytest.mark.parametrize("name", ["llvc-nc", "llvc-48k"])
def test_a_converter_plays_the_pack_time_aligned(packs_of_full_size, name):
    config, network = VARIANTS[name], generator(VARIANTS[name])
    audio = noise(config.chunk_samples * 20 + 33)
    made = VoiceConverter(str(packs_of_full_size[name]))(audio, config.sample_rate)
    assert made.shape == audio.shape
    expected = offline(network, np.concatenate([audio, np.zeros(2 * config.chunk_samples, np.float32)]))
    assert np.max(np.abs(made - expected[config.stride :][: len(audio)])) < 1e-5


@pytest.fixture(scope="module")
def packs_of_full_size(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llvc")
    return {
        name: write_test_pack(
            folder / f"{name}.voice", onnx.load_from_string(export_stream(generator(VARIANTS[name]), ["a"], ExportOptions()))
        )
        for name in ("llvc-nc", "llvc-48k")
    }


def test_names_that_do_not_match_the_voices_are_refused():
    with pytest.raises(ValueError, match=r"expected names for 1 voices, got \['a', 'b'\]"):
        export_stream(generator(SMALL), ["a", "b"], ExportOptions())
