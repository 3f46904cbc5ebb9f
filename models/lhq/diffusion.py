"""Variance-preserving diffusion in continuous time: schedule, marginals, predictions, weights, samplers.

The letters are those of Salimans & Ho 2022 (arXiv 2202.00512), sections 2 and 4, whose formulas LHQ-SVC uses under other
letters; s < t throughout. The numbers are those beside the lines below.

| here, theirs  | LHQ-SVC | what                                                                        | no. |
|---------------|---------|-----------------------------------------------------------------------------|-----|
| x, z_t, eps   | x̃, ỹ, ζ | the clean signal, the noisy one at time t, standard normal noise            |     |
| alpha, sigma  | β, γ    | cosine schedule: alpha = cos(pi t / 2), sigma = sin(pi t / 2)               | (1) |
| lambda        | θ       | log(alpha² / sigma²), the log signal-to-noise ratio                         | (2) |
| q(z_t given x) |        | N(alpha_t x, sigma_t² I)                                                    | (3) |
| sigma²_t given s | γ²   | (1 - e^(lambda_t - lambda_s)) sigma_t², of q(z_t given z_s)                 | (4) |
| mu~, sigma~²  | ν       | mean and variance of q(z_s given z_t, x)                                    | (5) |
| gamma         | κ       | `kappa`: the ancestral step's noise between sigma~² (0) and (4) (1)         | (6) |
|               |         | DDIM: z_s = alpha_s x + sigma_s (z_t - alpha_t x) / sigma_t                 | (7) |
| v             |         | alpha eps - sigma x, whence x = alpha z - sigma v, eps = sigma z + alpha v  | (8) |
| w(lambda)     | v(θ)    | weight of ‖x - x̂‖²: max(alpha² / sigma², 1), truncated SNR                  | (9) |
|               |         | the same: alpha² / sigma² + 1, which is the plain loss on v                 | (10) |

Everything takes and gives numpy arrays or torch tensors alike; a time is a float or an array that broadcasts. Rescaling and
shifting x, with z's noise rescaled likewise, leaves (3) to (7) as they are: they hold in whatever unit x is given.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

Value: TypeAlias = Any  # a float, a numpy array or a torch tensor


def _sin(angle: Value) -> Value:
    # A Python float stays one: numpy's own float64 would widen every float32 array it meets.
    if isinstance(angle, float | int):
        return math.sin(angle)
    return angle.sin() if hasattr(angle, "sin") else np.sin(angle)


def _sqrt(value: Value) -> Value:
    return value**0.5


def alpha(t: Value) -> Value:
    """(1) Share of the signal at time t in [0, 1]; exactly 0 at t = 1."""
    return _sin(0.5 * math.pi * (1 - t))


def sigma(t: Value) -> Value:
    """(1) Share of the noise at time t; exactly 0 at t = 0."""
    return _sin(0.5 * math.pi * t)


def diffuse(x: Value, noise: Value, t: Value) -> Value:
    """(3) A draw of z_t given x."""
    return alpha(t) * x + sigma(t) * noise


def v_from(x: Value, noise: Value, t: Value) -> Value:
    """(8) What a v-prediction learns."""
    return alpha(t) * noise - sigma(t) * x


def x_from_v(z: Value, v: Value, t: Value) -> Value:
    """(8) The clean signal from a v-prediction."""
    return alpha(t) * z - sigma(t) * v


def noise_from_v(z: Value, v: Value, t: Value) -> Value:
    """(8) The noise from a v-prediction."""
    return sigma(t) * z + alpha(t) * v


def v_from_x(z: Value, x: Value, t: Value) -> Value:
    """(8) v from a prediction of the clean signal; t > 0."""
    return (alpha(t) * z - x) / sigma(t)


def noise_from_x(z: Value, x: Value, t: Value) -> Value:
    """(3) The noise from a prediction of the clean signal; t > 0."""
    return (z - alpha(t) * x) / sigma(t)


def truncated_snr(t: Value) -> Value:
    """(9) Weight of the squared error of x; t > 0."""
    snr = (alpha(t) / sigma(t)) ** 2
    # max(snr, 1) for floats, numpy and torch alike.
    return 0.5 * (snr + 1 + abs(snr - 1))


def snr_plus_one(t: Value) -> Value:
    """(10) Weight of the squared error of x, with which it is the squared error of v; t > 0."""
    return 1 / sigma(t) ** 2


def snr_ratio(t: Value, s: Value) -> Value:
    """(2) e^(lambda_t - lambda_s), in [0, 1]: finite at both ends of time, where lambda is not."""
    return (alpha(t) * sigma(s) / (sigma(t) * alpha(s))) ** 2


def transition_variance(t: Value, s: Value) -> Value:
    """(4) Variance of q(z_t given z_s); its mean is alpha_t / alpha_s z_s."""
    return (1 - snr_ratio(t, s)) * sigma(t) ** 2


def posterior(z: Value, x: Value, t: Value, s: Value) -> tuple[Value, Value]:
    """(5) Mean and variance of q(z_s given z_t, x)."""
    keep = snr_ratio(t, s)
    # e^(lambda_t - lambda_s) alpha_s / alpha_t, with alpha_t cancelled: it is 0 at t = 1.
    from_z = alpha(t) * sigma(s) ** 2 / (sigma(t) ** 2 * alpha(s))
    return from_z * z + (1 - keep) * alpha(s) * x, (1 - keep) * sigma(s) ** 2


def ancestral(z: Value, x: Value, t: Value, s: Value, kappa: float, noise: Value) -> Value:
    """(6) One step of the ancestral sampler from t to s > 0; `kappa` in [0, 1]."""
    mean, smallest = posterior(z, x, t, s)
    return mean + _sqrt(smallest ** (1 - kappa) * transition_variance(t, s) ** kappa) * noise


def ddim(z: Value, x: Value, t: Value, s: Value) -> Value:
    """(7) One deterministic step from t to s."""
    ratio = sigma(s) / sigma(t)
    return ratio * z + (alpha(s) - ratio * alpha(t)) * x


def sample(
    denoise: Callable[[Value, float], Value],
    z: Value,
    steps: int,
    *,
    kappa: float = 0.0,
    noise: Callable[[int], Value] | None = None,
) -> Value:
    """From z at t = 1 to x at t = 0 in equal steps, deterministically (7) or, given `noise`, ancestrally (6).

    `denoise(z, t)` predicts x; `noise(i)` is the noise of the step that ends at time i / `steps`, in the unit of z.
    """
    for i in range(steps, 0, -1):
        t, s = i / steps, (i - 1) / steps
        x = denoise(z, t)
        # The last step lands on x itself, whatever the noise.
        z = x if i == 1 else ddim(z, x, t, s) if noise is None else ancestral(z, x, t, s, kappa, noise(i - 1))
    return z
