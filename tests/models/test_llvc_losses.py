"""LLVC's discriminators and losses: shapes of the published sets, losses that push the right way, spectra by formula."""

from itertools import pairwise
from math import ceil

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from models.llvc.discriminators import Discriminators, Period, Verdict, discriminator_set, hifi_gan_scale, vits_scale  # noqa: E402
from models.llvc.losses import (  # noqa: E402
    EnvelopeLoss,
    MelLoss,
    Resolution,
    discriminator_loss,
    feature_loss,
    generator_loss,
    mel_weights,
    slaney_mel,
)

torch.set_num_threads(1)


def verdict(score, *features):
    return Verdict(torch.full((2, 5), float(score)), [torch.full((2, 3), float(value)) for value in features])


def weights_of(module):
    """Numbers of convolution weights and biases, by the convolutions' own shapes."""
    convolutions = [m for m in module.modules() if isinstance(m, (torch.nn.Conv1d, torch.nn.Conv2d))]
    return sum(m.weight.numel() + m.bias.numel() for m in convolutions)


def test_the_sets_have_the_published_sizes():
    # Kong et al.'s period discriminator: kernels of 5, channels 1-32-128-512-1024-1024, and 3 to the score.
    channels = [1, 32, 128, 512, 1024, 1024]
    period = sum(5 * a * b + b for a, b in pairwise(channels)) + 3 * 1024 + 1
    assert weights_of(Period(2)) == period
    # Inputs a group, kernel and outputs of the scale discriminator of VITS.
    rows = [(1, 15, 16), (4, 41, 64), (4, 41, 256), (4, 41, 1024), (4, 41, 1024), (1024, 5, 1024), (1024, 3, 1)]
    scale = sum(inputs * kernel * outputs + outputs for inputs, kernel, outputs in rows)
    assert weights_of(vits_scale()) == scale
    with torch.device("meta"):  # sizes alone
        assert weights_of(discriminator_set("periods")) == scale + 8 * period
    rows = [(1, 15, 128), (32, 41, 128), (8, 41, 256), (16, 41, 512), (32, 41, 1024), (64, 41, 1024), (1024, 5, 1024), (1024, 3, 1)]
    scale = sum(inputs * kernel * outputs + outputs for inputs, kernel, outputs in rows)
    with torch.device("meta"):
        assert weights_of(discriminator_set("hifi-gan")) == 3 * scale + 5 * period


def test_weights_are_normalised_in_float32():
    """Whatever the convolutions run in: a GPU's autocast would take the norms' products in half precision, too."""
    scale, seen = hifi_gan_scale(0), []
    for layer in scale.modules():
        if isinstance(layer, torch.nn.Conv1d):
            layer.parametrizations.weight[0].register_forward_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    with torch.autocast("cpu", torch.bfloat16):
        (half,) = Discriminators([scale.eval()])(torch.randn(1, 1, 400))
    assert half.scores.dtype == torch.bfloat16
    assert seen == [False] * 8  # each once


def test_a_period_discriminator_sees_each_phase_by_itself():
    discriminator, audio = Period(7).eval(), torch.randn(1, 1, 700)
    with torch.no_grad():
        before = discriminator(audio)
        audio[0, 0, 3::7] += 1
        after = discriminator(audio)
    length = 100
    for _ in range(4):
        length = ceil(length / 3)
    assert before.scores.shape == (1, length * 7)
    moved = (before.scores != after.scores).reshape(length, 7)
    assert moved[:, 3].all() and not moved[:, [0, 1, 2, 4, 5, 6]].any()


def test_the_losses_are_least_squares_with_recordings_at_one():
    perfect = {"recorded": [verdict(1), verdict(1)], "made": [verdict(0), verdict(0)]}
    swapped = {"recorded": [verdict(0), verdict(0)], "made": [verdict(1), verdict(1)]}
    assert discriminator_loss(**perfect).item() == 0
    assert discriminator_loss(**swapped).item() == 4  # 1 + 1 for each of two members
    assert discriminator_loss(recorded=[verdict(0.5)], made=[verdict(0.25)]).item() == 0.25 + 0.0625
    assert generator_loss(made=[verdict(1), verdict(1)]).item() == 0
    assert generator_loss(made=[verdict(0), verdict(0.5)]).item() == 1.25
    assert feature_loss(recorded=[verdict(0, 1, 2)], made=[verdict(0, 1.5, 0)]).item() == 2.5


@pytest.fixture(scope="module", params=["periods", "hifi-gan"])
def members(request):
    """Two discriminators of a set; all of them would take a minute."""
    torch.manual_seed(0)
    chosen = [vits_scale(), Period(3)] if request.param == "periods" else [hifi_gan_scale(0), hifi_gan_scale(1)]
    return Discriminators(chosen)


def mean_score(members, audio):
    with torch.no_grad():
        return float(torch.cat([verdict.scores for verdict in members(audio)], 1).mean())


def test_a_step_of_either_side_lowers_its_own_loss_and_moves_the_scores_its_way(members):
    recorded = torch.sin(0.3 * torch.arange(400.0))[None, None]
    made = (0.1 * torch.randn(1, 1, 400)).requires_grad_()
    optimiser = torch.optim.Adam(members.parameters(), 5e-4)
    losses = []
    for _ in range(4):
        loss = discriminator_loss(recorded=members(recorded), made=members(made.detach()))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[3] < losses[0]
    assert mean_score(members, recorded) > mean_score(members, made)

    members.eval()
    loss = generator_loss(made=members(made))
    before = mean_score(members, made)
    loss.backward()
    with torch.no_grad():
        made -= 0.01 * made.grad / made.grad.norm()
    assert generator_loss(made=members(made)).item() < loss.item()
    assert mean_score(members, made) > before


def test_feature_matching_teaches_the_generator_and_not_the_recording(members):
    recorded, made = torch.randn(1, 1, 400, requires_grad=True), torch.randn(1, 1, 400, requires_grad=True)
    feature_loss(recorded=members(recorded), made=members(made)).backward()
    assert recorded.grad is None
    assert made.grad.abs().max() > 0


def test_mel_is_slaneys():
    # By its definition: 1 kHz is 15, 6.4 kHz is 27 steps further, 200 Hz is 3.
    assert np.allclose(slaney_mel(np.array([0.0, 200.0, 1000.0, 6400.0])), [0, 3, 15, 42])
    weights = mel_weights(16_000, 2048)
    assert np.allclose(weights.sum(0)[40:] * 16_000 / 2048, 1, atol=0.05)  # triangles of area 1
    peaks = weights.argmax(0) * 16_000 / 2048
    assert np.all(np.diff(peaks) >= 0)
    steps = np.diff(slaney_mel(peaks[30:]))
    assert np.allclose(steps, slaney_mel(np.array(8000.0)) / 81, atol=0.1)


def test_the_mel_loss_by_formula():
    loss = MelLoss(16_000)
    audio = 0.1 * torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))
    assert loss(audio, audio).item() == 0
    # Twice as loud: every magnitude doubles, so the convergence is 1 and each log differs by log 2.
    assert abs(loss(2 * audio, audio).item() - (1 + np.log(2))) < 1e-3
    # In magnitudes relative to what is wanted, half as loud is nearer than twice as loud.
    assert abs(loss(audio, 2 * audio).item() - (0.5 + np.log(2))) < 1e-3
    assert loss(0 * audio, audio).isfinite()


def test_a_sine_stands_in_its_band():
    resolution = Resolution(1024, 120, 600)
    t = torch.arange(16_000) / 16_000
    spectrum = MelLoss(16_000).spectrum(torch.sin(2 * torch.pi * 2000 * t)[None], resolution)[0, 60]
    centres = np.linspace(0, slaney_mel(np.array(8000.0)), 82)[1:-1]
    assert abs(centres[int(spectrum.argmax())] - slaney_mel(np.array(2000.0))) < 0.6


def test_at_48_khz_the_resolutions_last_as_long():
    assert MelLoss(48_000).resolutions[0] == Resolution(3072, 360, 1800)


@pytest.mark.parametrize("sample_rate", [16_000, 48_000])
def test_the_envelope_loss_of_a_louder_take_is_the_logarithm_of_its_gain(sample_rate):
    x = 0.1 * torch.from_numpy(np.random.default_rng(0).standard_normal((2, sample_rate))).float()
    assert EnvelopeLoss(sample_rate)(1.5 * x, x).item() == pytest.approx(np.log(1.5), rel=1e-3)


def test_the_envelope_loss_hears_envelopes_and_the_mel_loss_single_realisations():
    # Two draws of one noise have one envelope. What is left is estimation error: a bin's power has a relative deviation of 1.
    first, second = (0.1 * torch.from_numpy(np.random.default_rng(k).standard_normal((1, 32_000))).float() for k in range(2))
    assert EnvelopeLoss(16_000)(first, second).item() < 0.5 * MelLoss(16_000)(first, second).item()
    # A pause has none.
    assert EnvelopeLoss(16_000)(torch.cat([first, 1e-5 * first], 1), torch.cat([first, 1e-4 * second], 1)).item() < 0.05
