"""The bench of the graphs: every engine converts the same audio, and the figures are those of the reference."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from models.llvc.bench import measure, mel_distance_db, random_generator, sung  # noqa: E402
from models.llvc.network import VARIANTS, Generator  # noqa: E402
from models.llvc.reference import ReferenceStream  # noqa: E402


@pytest.mark.parametrize("chunk_factor", [1, 2])
@pytest.mark.parametrize("variant", ["llvc", "llvc-nc", "llvc-48k"])
def test_the_reference_is_the_network(variant, chunk_factor):
    torch.manual_seed(0)
    network = Generator(replace(VARIANTS[variant], encoder_layers=5)).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
        network.out_conv[0].weight.mul_(0.06)
    audio = torch.from_numpy(0.3 * np.random.default_rng(0).standard_normal(12 * network.config.chunk_samples)).float()
    stream, state = ReferenceStream(network), network.stream_state(1)
    with torch.inference_mode():
        for samples in audio.split(chunk_factor * network.config.chunk_samples):
            made, state = network.step(samples[None, None], state)
            assert made.abs().max() > 0.05
            assert (stream.step(samples) - made[0, 0]).abs().max() < 2e-6


def test_the_bench_compares_engines_on_the_same_input():
    network, single, integer = measure(random_generator("llvc-48k"), 1, sung(0.2, 48_000))
    assert [row.engine for row in (network, single, integer)] == ["torch", "float32", "int8"]
    assert network.chunk_ms == pytest.approx(32 / 3) and network.latency_ms == pytest.approx(12)
    assert network.times_network == (1, 1)
    assert single.snr_db > 100  # the same numbers but for rounding
    assert 20 < integer.snr_db < 80
    assert all(0 < row.fastest_ms <= row.median_ms <= row.p99_ms for row in (network, single, integer))


def test_integers_lose_little_where_weights_are_as_training_leaves_them():
    """A few outputs far stronger than the others, a few weights far larger than their row: scales by row bear it."""
    torch.manual_seed(0)
    generator = Generator(VARIANTS["llvc-nc"]).eval()
    with torch.no_grad():
        for name, weights in generator.named_parameters():
            if weights.ndim > 1 and "label" not in name:
                strength = torch.exp(0.5 * torch.randn(weights.shape[0], *[1] * (weights.ndim - 1)))
                weights.mul_(strength * (1 + 4 * (torch.rand_like(weights) < 0.003)))
            elif weights.ndim == 1:
                weights.add_(0.1 * torch.randn_like(weights))
        generator.out_conv[0].weight.mul_(0.06)
    _, single, integer = measure(generator, 1, sung(0.5, 16_000))
    assert single.snr_db > 90 and single.mel_db < 0.01
    assert integer.snr_db > 20 and integer.mel_db < 1


def test_mel_distance_is_in_decibels():
    audio = sung(0.5, 16_000)
    assert mel_distance_db(audio, audio, 16_000) == 0
    assert mel_distance_db(0.5 * audio, audio, 16_000) == pytest.approx(6.02, abs=0.2)
