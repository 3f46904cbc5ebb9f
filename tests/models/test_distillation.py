"""Progressive distillation against the teacher's own steps."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from models.lhq import diffusion
from models.lhq.distillation import FINEST, grid_times, other_times, two_step_target

Array = NDArray[np.float64]


def teacher(z: Array, t: Array) -> Array:
    """Some smooth function that is no linear one."""
    return np.asarray(np.tanh(1.5 * z + t) - 0.3 * t)


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_one_step_with_the_target_is_two_steps_of_the_teacher(steps: int) -> None:
    rng = np.random.default_rng(0)
    z, t = rng.standard_normal((40, 5)), (rng.integers(1, steps + 1, 40) / steps)[:, None]
    halfway, end = t - 0.5 / steps, t - 1 / steps
    z_halfway = diffusion.ddim(z, teacher(z, t), t, halfway)
    wanted = diffusion.ddim(z_halfway, teacher(z_halfway, halfway), halfway, end)
    target = two_step_target(teacher, z, t, steps)
    np.testing.assert_allclose(diffusion.ddim(z, target, t, end), wanted, atol=1e-12)


def test_the_last_target_is_the_teachers_last_answer() -> None:
    z = np.random.default_rng(1).standard_normal(20)
    halfway = diffusion.ddim(z, teacher(z, 1.0), 1.0, 0.5)
    np.testing.assert_allclose(two_step_target(teacher, z, 1.0, 1), teacher(halfway, 0.5), atol=1e-12)


def test_a_chain_of_exact_students_does_in_one_step_what_the_first_teacher_does_in_sixteen() -> None:
    """Each stage's student answers with its target exactly, as one would that has been trained to the end."""

    def student_of(denoise, steps):  # type: ignore[no-untyped-def]
        return lambda z, t: two_step_target(denoise, z, t, steps)

    z, student = np.random.default_rng(2).standard_normal(50), teacher
    for steps in (8, 4, 2, 1):
        student = student_of(student, steps)
    np.testing.assert_allclose(diffusion.sample(student, z, 1), diffusion.sample(teacher, z, 16), atol=1e-10)


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_times_taught_and_times_kept_are_the_two_parts_of_the_finest_grid(steps: int) -> None:
    rng = np.random.default_rng(3)
    taught, kept = (set(f(rng, 1000, steps) * FINEST) for f in (grid_times, other_times))
    assert taught == {i * FINEST / steps for i in range(1, steps + 1)}
    assert taught | kept == set(range(1, FINEST + 1)) and not taught & kept
