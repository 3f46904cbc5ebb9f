"""Progressive distillation (Salimans & Ho 2022, section 3, algorithm 2): one step of the student does two of its teacher's.

The student of N steps starts as a copy of its teacher of 2 N steps and becomes the teacher of the next stage, down to one step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from models.lhq.diffusion import Value, alpha, ddim, sigma

FINEST = 16  # steps of the first teacher; the condition says so much that more would show no more


def two_step_target(denoise: Callable[[Value, Value], Value], z: Value, t: Value, steps: int) -> Value:
    """The x that takes DDIM from z_t to t - 1 / `steps` in one step to where two steps of the teacher `denoise` take it."""
    halfway, end = t - 0.5 / steps, t - 1.0 / steps
    z_halfway = ddim(z, denoise(z, t), t, halfway)
    z_end = ddim(z_halfway, denoise(z_halfway, halfway), halfway, end)
    # DDIM (7) from z_t to z_end, solved for x. At the last step end = 0, where this is the teacher's second x.
    ratio = sigma(end) / sigma(t)
    return (z_end - ratio * z) / (alpha(end) - ratio * alpha(t))


def grid_times(rng: Any, count: int, steps: int) -> Any:
    """`count` times i / `steps`, i uniform in 1..`steps`: those the student will be asked at. `rng`: numpy Generator."""
    return rng.integers(1, steps + 1, count) / steps


def other_times(rng: Any, count: int, steps: int) -> Any:
    """`count` times of the finest grid that a student of `steps` steps is not taught at.

    There it is to stay what its teacher was: sampling with more steps than the student's own goes on making sense.
    """
    off = [i for i in range(1, FINEST + 1) if i * steps % FINEST]
    return rng.choice(off, count) / FINEST
