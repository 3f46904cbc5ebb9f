"""LLVC's generator against a double-precision re-derivation in numpy, and its streaming against its offline conversion."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from models.llvc.network import VARIANTS, Generator, GeneratorConfig  # noqa: E402

torch.set_num_threads(1)

SMALL = GeneratorConfig(
    stride=4, width=32, encoder_layers=3, decoder_width=16, chunk=3, context=5, output_context=2, prenet_layers=3
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
    return 0.3 * np.random.default_rng(seed).standard_normal(samples)


def tensor(network, audio):
    """A waveform as a batch of one, in the network's precision."""
    return torch.from_numpy(audio)[None, None].to(network.in_conv[0].weight.dtype)


def converted(network, audio, voice=None):
    with torch.no_grad():
        return network(tensor(network, audio), voice)[0, 0].numpy()


def streamed(network, audio, steps, voice=None):
    """Convert step by step; `steps` are the numbers of chunks that each takes."""
    output, state, start = [], network.stream_state(1), 0
    with torch.no_grad():
        for step in steps:
            samples = step * network.config.chunk_samples
            made, state = network.step(tensor(network, audio[start : start + samples]), state, voice)
            output.append(made[0, 0].numpy())
            start += samples
    return np.concatenate(output)


# --- the re-derivation: frame by frame, chunk by chunk, from the published description ---


def layer_norm(x, weights, name):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def attend(x, window, weights, name):
    width = x.shape[1]
    wq, wk, wv = weights[f"{name}.in_proj_weight"].reshape(3, width, width)
    bq, bk, bv = weights[f"{name}.in_proj_bias"].reshape(3, width)
    query, key, value = x @ wq.T + bq, window @ wk.T + bk, window @ wv.T + bv
    heads = []
    for head in np.split(np.arange(width), 8):
        scores = query[:, head] @ key[:, head].T / np.sqrt(len(head))
        share = np.exp(scores - scores.max(1, keepdims=True))
        heads.append(share / share.sum(1, keepdims=True) @ value[:, head])
    return np.concatenate(heads, 1) @ weights[f"{name}.out_proj.weight"].T + weights[f"{name}.out_proj.bias"]


def grouped(x, weights, name):
    """A 1x1 convolution with as many groups as the narrower side has channels, and ReLU."""
    weight, bias = weights[f"{name}.0.weight"][:, :, 0], weights[f"{name}.0.bias"]
    if weight.shape[1] > 1:
        product = (x.reshape(len(x), *weight.shape) * weight).sum(-1)
    else:
        product = np.repeat(x, len(weight) // x.shape[1], axis=1) * weight[:, 0]
    return np.maximum(product + bias, 0)


def derived(network, audio):
    """What the network of one voice makes of `audio`, a whole number of strides."""
    config = network.config
    weights = {name: value.numpy().astype(np.float64) for name, value in network.state_dict().items()}
    stride = config.stride
    x = np.pad(audio, stride)
    y = x
    for k in range(config.prenet_layers):
        taps = np.lib.stride_tricks.sliding_window_view(np.pad(y, (2, 0)), 3)
        parts = [f"convnet_pre.down_convs.{k}.{part}" for part in ("filter", "gate")]
        filtered, gate = (taps @ weights[f"{part}.weight"][0, 0] + weights[f"{part}.bias"] for part in parts)
        y = y + np.tanh(filtered) / (1 + np.exp(-gate))
    if config.prenet_layers:
        x = x + y
    seen = np.lib.stride_tricks.sliding_window_view(x, 3 * stride)[::stride]
    frames = np.maximum(seen @ weights["in_conv.0.weight"][:, 0].T, 0)

    encoded = frames
    for k in range(config.encoder_layers):
        name, far = f"mask_gen.encoder.dcc_layers.dcc_{k}.layers", 2**k
        past = np.pad(encoded, ((2 * far, 0), (0, 0)))
        taps = weights[f"{name}.0.weight"][:, 0]
        h = sum(past[j * far : j * far + len(encoded)] * taps[:, j] for j in range(3)) + weights[f"{name}.0.bias"]
        h = np.maximum(layer_norm(h, weights, f"{name}.1"), 0)
        h = h @ weights[f"{name}.3.weight"][:, :, 0].T + weights[f"{name}.3.bias"]
        encoded = encoded + np.maximum(layer_norm(h, weights, f"{name}.4"), 0)

    hidden = np.maximum(layer_norm(weights["label_embedding.0.bias"], weights, "label_embedding.1"), 0)
    hidden = hidden @ weights["label_embedding.3.weight"].T + weights["label_embedding.3.bias"]
    labelled = np.maximum(layer_norm(hidden, weights, "label_embedding.4"), 0) * encoded

    memory, target = grouped(encoded, weights, "mask_gen.proj_e2d_e"), grouped(labelled, weights, "mask_gen.proj_e2d_l")
    filled = -len(frames) % config.chunk
    memory, target = (np.pad(m, ((config.context, filled), (0, 0))) for m in (memory, target))
    window = config.context + config.chunk
    angle = np.arange(window)[:, None] / 10_000 ** (np.arange(0, config.decoder_width, 2) / config.decoder_width)
    positions = np.stack([np.sin(angle), np.cos(angle)], -1).reshape(window, -1)
    decoded, name = [], "mask_gen.decoder.tf_dec_layers.0"
    for start in range(0, len(memory) - config.context, config.chunk):
        seen, mine = memory[start : start + window] + positions, target[start : start + window] + positions
        h = mine[config.context :]
        h = layer_norm(h + attend(h, mine, weights, f"{name}.self_attn"), weights, f"{name}.norm1")
        h = layer_norm(h + attend(h, seen, weights, f"{name}.multihead_attn"), weights, f"{name}.norm2")
        inner = np.maximum(h @ weights[f"{name}.linear1.weight"].T + weights[f"{name}.linear1.bias"], 0)
        inner = inner @ weights[f"{name}.linear2.weight"].T + weights[f"{name}.linear2.bias"]
        decoded.append(layer_norm(h + inner, weights, f"{name}.norm3"))
    mask = labelled + grouped(np.concatenate(decoded)[: len(frames)], weights, "mask_gen.proj_d2e")

    output = np.zeros((len(frames) + config.output_context) * stride)
    for k, frame in enumerate(frames * mask):
        response = frame @ weights["out_conv.0.weight"][:, 0]
        output[k * stride : k * stride + len(response)] += response
    return np.tanh(output[: len(frames) * stride])


@pytest.mark.parametrize(
    ("config", "strides"),
    [(SMALL, 3 * 11), (SMALL, 25), (replace(SMALL, prenet_layers=0), 7), (VARIANTS["llvc"], 13 * 4), (VARIANTS["llvc-48k"], 8 * 3)],
)
def test_the_offline_conversion_is_the_published_formula(config, strides):
    network, audio = generator(config), noise(strides * config.stride)
    expected = derived(network, audio)
    assert np.abs(expected).max() > 0.02
    assert np.max(np.abs(converted(network, audio) - expected)) < 1e-5


def test_the_parameter_counts_are_the_published_ones():
    def count(module):
        return sum(parameter.numel() for parameter in module.parameters())

    network = Generator(VARIANTS["llvc"])
    assert count(network) == 3_258_720
    assert count(network.convnet_pre) == 96
    assert count(network.in_conv) == 24_576
    assert count(network.label_embedding) == 265_728
    assert count(network.mask_gen.encoder) == 2_134_016
    assert count(network.mask_gen.decoder) == 790_784
    assert count(network.out_conv) == 40_960
    assert count(Generator(VARIANTS["llvc-nc"])) == 3_258_720 - 96
    assert count(Generator(VARIANTS["llvc-hfg"])) == 3_258_720
    # Strides of 64 instead of 16 samples: four times the two waveform convolutions.
    assert count(Generator(VARIANTS["llvc-48k"])) == 3_258_720 - 96 + 3 * (24_576 + 40_960)


def test_the_names_are_those_of_the_published_checkpoints():
    both = ("weight", "bias")
    names = {f"convnet_pre.down_convs.{k}.{part}.{kind}" for k in range(12) for part in ("filter", "gate") for kind in both}
    names |= {"in_conv.0.weight", "out_conv.0.weight", "mask_gen.decoder.pos_enc.pe"}
    names |= {f"label_embedding.{k}.{kind}" for k in (0, 1, 3, 4) for kind in both}
    names |= {f"mask_gen.encoder.dcc_layers.dcc_{i}.layers.{k}.{kind}" for i in range(8) for k in (0, 1, 3, 4) for kind in both}
    names |= {f"mask_gen.{projection}.0.{kind}" for projection in ("proj_e2d_e", "proj_e2d_l", "proj_d2e") for kind in both}
    layer = "mask_gen.decoder.tf_dec_layers.0"
    names |= {f"{layer}.{attention}.in_proj_{kind}" for attention in ("self_attn", "multihead_attn") for kind in both}
    names |= {f"{layer}.{attention}.out_proj.{kind}" for attention in ("self_attn", "multihead_attn") for kind in both}
    names |= {f"{layer}.{part}.{kind}" for part in ("linear1", "linear2", "norm1", "norm2", "norm3") for kind in both}
    assert set(Generator(VARIANTS["llvc"]).state_dict()) == names


@settings(max_examples=15, deadline=None)
@given(steps=st.lists(st.integers(1, 5), min_size=1, max_size=8))
def test_streaming_is_the_offline_conversion_of_the_input_one_stride_late(steps):
    network = generator(SMALL).double()
    audio = noise(sum(steps) * SMALL.chunk_samples)
    late = np.concatenate([np.zeros(SMALL.stride), audio])[: len(audio)]
    # The last stride of a stream still waits for its look-ahead; offline, silence follows.
    whole = np.concatenate([late, audio[-SMALL.stride :], np.zeros(SMALL.chunk_samples - SMALL.stride)])
    assert np.max(np.abs(streamed(network, audio, steps) - converted(network, whole)[: len(audio)])) < 1e-12


@pytest.mark.parametrize("name", ["llvc", "llvc-nc", "llvc-48k"])
def test_streaming_is_offline_at_full_size_after_the_whole_receptive_field(name):
    config = VARIANTS[name]
    network = generator(config)
    chunks = config.receptive_field // config.chunk_samples + 3
    audio = noise(chunks * config.chunk_samples)
    expected = converted(network, np.concatenate([np.zeros(config.stride), audio]))[: len(audio)]
    assert np.max(np.abs(streamed(network, audio, [1] * (chunks - 8) + [2, 6]) - expected)) < 1e-6


def test_an_input_sample_moves_the_outputs_it_may_and_no_others():
    network = generator(SMALL).double()
    config, audio = SMALL, noise(SMALL.chunk_samples * 14)
    plain = converted(network, audio)
    for position in range(30, 60):
        moved = audio.copy()
        moved[position] += 0.5
        changed = np.flatnonzero(converted(network, moved) != plain)
        # Frame k sees [stride (k - 1), stride (k + 2)); its whole chunk attends to it.
        first_frame = -(-(position - 2 * config.stride + 1) // config.stride)
        assert changed[0] == first_frame // config.chunk * config.chunk_samples
        assert changed[-1] <= position + config.receptive_field


def test_the_dropout_of_training_is_off_when_converting():
    network = generator(replace(SMALL, prenet_dropout=0.5, decoder_dropout=0.5))
    assert np.array_equal(converted(network, noise(120)), converted(network, noise(120)))


def test_a_voice_is_heard_and_a_mixture_of_labels_lies_between():
    network = generator(replace(SMALL, voices=3))
    audio = noise(SMALL.chunk_samples * 4)
    each = [converted(network, audio, voice[None]) for voice in torch.eye(3)]
    assert np.abs(each[0] - each[1]).max() > 1e-3
    assert np.array_equal(converted(network, audio), each[0])
    mixture = torch.tensor([[0.5, 0.5, 0.0]])
    labels = network.labels()
    assert torch.allclose(mixture @ labels, (labels[:1] + labels[1:2]) / 2)
    between = converted(network, audio, mixture)
    assert 0 < np.abs(between - each[0]).max() < np.abs(each[1] - each[0]).max()


def test_a_step_of_part_of_a_chunk_is_refused():
    network = generator(SMALL)
    with pytest.raises(ValueError, match="expected a multiple of 12 samples, got 13"):
        network.step(torch.zeros(1, 1, 13), network.stream_state(1))
