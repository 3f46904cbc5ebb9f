"""Diffusion against closed forms: Gaussian data x ~ N(m, c²), whose best denoiser and whose every marginal are known."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from models.lhq import diffusion
from models.lhq.noise import ROWS, frame_noise

MEAN, SPREAD = 0.4, 0.3
Array = NDArray[np.float64]


def best_denoiser(z: Array, t: float) -> Array:
    """E[x given z_t], by the rule for jointly Gaussian variables."""
    a, s = math.cos(math.pi * t / 2), math.sin(math.pi * t / 2)
    return np.asarray(MEAN + SPREAD**2 * a / (a**2 * SPREAD**2 + s**2) * (z - a * MEAN))


def test_the_schedule_is_the_cosine_schedule_with_exact_ends() -> None:
    t = np.linspace(0, 1, 11)
    np.testing.assert_allclose(diffusion.alpha(t), np.cos(np.pi * t / 2), atol=1e-15)
    np.testing.assert_allclose(diffusion.sigma(t), np.sin(np.pi * t / 2), atol=1e-15)
    assert diffusion.alpha(1.0) == 0.0 and diffusion.sigma(0.0) == 0.0


def test_a_float_time_keeps_float32() -> None:
    z = np.ones(3, np.float32)
    assert diffusion.sample(lambda z, t: 0.5 * z, z, 3).dtype == np.float32


def test_numpy_and_torch_agree() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    z, x, noise = rng.standard_normal((3, 4, 5))
    t, s = np.array([[0.3], [0.7], [0.9], [1.0]]), np.array([[0.1], [0.0], [0.85], [0.5]])
    tensors = [torch.from_numpy(a) for a in (z, x, t, s)]
    for step in (diffusion.ddim, lambda *a: diffusion.posterior(*a)[0], lambda *a: diffusion.transition_variance(*a[2:])):
        np.testing.assert_allclose(step(z, x, t, s), step(*tensors), atol=1e-12)
    kappa = diffusion.ancestral(z, x, t, s, 0.3, noise)
    np.testing.assert_allclose(kappa, diffusion.ancestral(*tensors, 0.3, torch.from_numpy(noise)), atol=1e-12)
    np.testing.assert_allclose(diffusion.truncated_snr(t), diffusion.truncated_snr(tensors[2]), atol=1e-12)


@pytest.mark.parametrize("t", [0.1, 0.5, 0.8, 1.0])
def test_predictions_convert_into_each_other(t: float) -> None:
    x, noise = np.random.default_rng(1).standard_normal((2, 100))
    z = diffusion.diffuse(x, noise, t)
    v = diffusion.v_from(x, noise, t)
    np.testing.assert_allclose(diffusion.x_from_v(z, v, t), x, atol=1e-12)
    np.testing.assert_allclose(diffusion.noise_from_v(z, v, t), noise, atol=1e-12)
    np.testing.assert_allclose(diffusion.v_from_x(z, x, t), v, atol=1e-12)
    np.testing.assert_allclose(diffusion.noise_from_x(z, x, t), noise, atol=1e-12)


@pytest.mark.parametrize("t", [0.05, 0.5, 0.75, 1.0])
def test_weights_are_losses_on_noise_and_on_v(t: float) -> None:
    """SNR + 1 turns the loss on x into that on v; truncated SNR into the larger of those on x and on the noise."""
    rng = np.random.default_rng(2)
    x, noise, wrong = rng.standard_normal((3, 50))
    z = diffusion.diffuse(x, noise, t)
    on_x = np.mean((x - wrong) ** 2)
    on_v = np.mean((diffusion.v_from(x, noise, t) - diffusion.v_from_x(z, wrong, t)) ** 2)
    on_noise = np.mean((noise - diffusion.noise_from_x(z, wrong, t)) ** 2)
    assert diffusion.snr_plus_one(t) * on_x == pytest.approx(on_v)
    assert diffusion.truncated_snr(t) * on_x == pytest.approx(max(on_x, on_noise))


@pytest.mark.parametrize(("t", "s"), [(0.6, 0.2), (0.9, 0.85), (1.0, 0.5)])
def test_transition_and_marginal_make_the_later_marginal(t: float, s: float) -> None:
    """q(z_s given x) and then q(z_t given z_s) is q(z_t given x)."""
    ratio = diffusion.alpha(t) / diffusion.alpha(s)
    variance = ratio**2 * diffusion.sigma(s) ** 2 + diffusion.transition_variance(t, s)
    assert variance == pytest.approx(diffusion.sigma(t) ** 2)


@pytest.mark.parametrize(("t", "s"), [(0.6, 0.2), (0.9, 0.85), (1.0, 0.5), (0.3, 0.0)])
def test_posterior_is_bayes_rule(t: float, s: float) -> None:
    """Product of the two Gaussians q(z_t given z_s) and q(z_s given x), over z_s."""
    z, x = 0.7, -0.2
    mean, variance = diffusion.posterior(z, x, t, s)
    a_t, a_s = math.cos(math.pi * t / 2), math.cos(math.pi * s / 2)
    s_t, s_s = math.sin(math.pi * t / 2) ** 2, math.sin(math.pi * s / 2) ** 2
    between = s_t - (a_t / a_s) ** 2 * s_s
    gain = s_s * (a_t / a_s) / ((a_t / a_s) ** 2 * s_s + between)
    assert mean == pytest.approx(a_s * x + gain * (z - a_t * x), abs=1e-12)
    assert variance == pytest.approx(s_s * between / s_t, abs=1e-12)


def test_ddim_approaches_the_exact_flow() -> None:
    """For Gaussian data the flow is known: x = m + c z_1. Halving the steps' length halves the error (first order)."""
    z = np.random.default_rng(3).standard_normal(1000)
    errors = [np.abs(diffusion.sample(best_denoiser, z, n) - (MEAN + SPREAD * z)).max() for n in (16, 32, 64, 128)]
    assert errors[0] < 0.2
    for coarse, fine in pairwise(errors):
        assert 1.8 < coarse / fine < 2.2


def test_ddim_with_one_step_is_the_denoiser() -> None:
    z = np.random.default_rng(4).standard_normal(10)
    np.testing.assert_array_equal(diffusion.sample(best_denoiser, z, 1), best_denoiser(z, 1.0))


@pytest.mark.parametrize("kappa", [0.0, 0.3, 1.0])
def test_ancestral_samples_have_the_statistics_of_their_chain_and_of_the_data(kappa: float) -> None:
    """A chain of linear Gaussian steps: its mean and variance by recursion, and, as steps become many, the data's."""
    steps, count = 100, 20_000
    mean, variance = 0.0, 1.0
    for i in range(steps, 1, -1):
        t, s = i / steps, (i - 1) / steps
        a_t, v_t, a_s, v_s = (f(math.pi * u / 2) ** p for u in (t, s) for f, p in ((math.cos, 1), (math.sin, 2)))
        ratio = (a_t / a_s) ** 2 * v_s / v_t
        gain = SPREAD**2 * a_t / (a_t**2 * SPREAD**2 + v_t)
        slope = a_t / a_s * v_s / v_t + (1 - ratio) * a_s * gain
        mean = slope * mean + (1 - ratio) * a_s * (MEAN - gain * a_t * MEAN)
        variance = slope**2 * variance + ((1 - ratio) * v_s) ** (1 - kappa) * ((1 - ratio) * v_t) ** kappa
    gain = SPREAD**2 * a_s / (a_s**2 * SPREAD**2 + v_s)
    mean, variance = gain * mean + MEAN - gain * a_s * MEAN, gain**2 * variance
    rng = np.random.default_rng(5)
    drawn = diffusion.sample(
        best_denoiser, rng.standard_normal(count), steps, kappa=kappa, noise=lambda i: rng.standard_normal(count)
    )
    assert drawn.mean() == pytest.approx(mean, abs=4 * SPREAD / count**0.5)
    assert drawn.std() == pytest.approx(variance**0.5, rel=4 / (2 * count) ** 0.5)
    assert drawn.mean() == pytest.approx(MEAN, abs=0.02)
    assert drawn.std() == pytest.approx(SPREAD, rel=0.1)


def test_any_unit_of_the_signal_gives_the_same_path() -> None:
    """x in another unit and shifted, the noise in that unit: the same samples. So a mean known beforehand costs nothing."""
    unit, shift = 0.15, -0.6
    z = np.random.default_rng(6).standard_normal(50)

    def moved(z: Array, t: float) -> Array:
        return np.asarray(unit * best_denoiser((z - diffusion.alpha(t) * shift) / unit, t) + shift)

    plain = diffusion.sample(best_denoiser, z, 7)
    np.testing.assert_allclose(diffusion.sample(moved, unit * z, 7), unit * plain + shift, atol=1e-12)


def test_noise_of_a_frame_does_not_depend_on_the_cut() -> None:
    whole = frame_noise(3, 0, 0, 1000, 100)
    for first, frames in ((0, 1), (63, 2), (ROWS, ROWS), (500, 317)):
        np.testing.assert_array_equal(frame_noise(3, 0, first, frames, 100), whole[first : first + frames])
    assert frame_noise(3, 0, 10, 0, 100).shape == (0, 100)
    with pytest.raises(ValueError, match="from 0 on, got -1"):
        frame_noise(3, 0, -1, 5, 100)


def test_noise_is_normal_and_seeds_streams_and_frames_are_independent() -> None:
    draws = [frame_noise(seed, stream, 0, 2000, 100) for seed, stream in ((0, 0), (1, 0), (0, 1))]
    for drawn in draws:
        assert abs(drawn.mean()) < 0.01 and drawn.std() == pytest.approx(1, abs=0.01)
        assert np.mean(drawn**4) == pytest.approx(3, abs=0.1)  # kurtosis of a normal distribution
        assert abs(np.mean(drawn[1:] * drawn[:-1])) < 0.01
    assert abs(np.mean(draws[0] * draws[1])) < 0.01 and abs(np.mean(draws[0] * draws[2])) < 0.01
