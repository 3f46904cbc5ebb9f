"""Weights between those of two students that have the same origin: see `models.blending`.

    python -m models.lhq.blend --first student.pt --second sharp-student.pt --share 0.6 --out blended.pt
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models.blending import between, blend_arguments
from models.checkpoint import restoring, save
from models.command import run

MODULES = ("denoiser", "conditioner")


def read_student(path: Path) -> dict[str, Any]:
    """What is blended of a student's checkpoint, and what it is. Raises CheckpointError if it is not one."""
    with restoring(path, "a student") as state:
        return {name: state[name] for name in (*MODULES, "sizes", "steps")}


def blend(first: Path, second: Path, share: float) -> dict[str, Any]:
    """What `train_denoiser.load_result` reads: `share` of the second's weights, the rest of the first's; the second's encoder.

    Raises ValueError, one sentence, if their networks differ.
    """
    one, other = (read_student(path) for path in (first, second))
    if one["sizes"] != other["sizes"]:
        raise ValueError(f"expected two results of one structure, but {second} differs from {first}")
    blended = {name: between(one[name], other[name], share) for name in MODULES}
    return blended | {"sizes": one["sizes"], "steps": one["steps"]}


def main() -> None:
    arguments = blend_arguments("Blend the weights of two students.")
    save(arguments.out, blend(arguments.first, arguments.second, arguments.share))


if __name__ == "__main__":
    run(main)
