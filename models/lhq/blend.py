"""Weights between those of two students that have the same origin: see `models.blending`.

    python -m models.lhq.blend --first student.pt --second sharp-student.pt --share 0.6 --out blended.pt
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models.blending import between, blend_arguments
from models.checkpoint import read_checkpoint, save

MODULES = ("denoiser", "conditioner")


def blend(first: Path, second: Path, share: float) -> dict[str, Any]:
    """What `train_denoiser.load_result` reads: `share` of the second's weights, the rest of the first's; the second's encoder.

    Raises ValueError, one sentence, if their networks differ.
    """
    one, other = (read_checkpoint(path, "a student") for path in (first, second))
    if one["sizes"] != other["sizes"]:
        raise ValueError(f"expected two results of one structure, but {second} differs from {first}")
    blended = {name: between(one[name], other[name], share) for name in MODULES}
    return blended | {"sizes": one["sizes"], "steps": one["steps"]}


def main() -> None:
    arguments = blend_arguments("Blend the weights of two students.")
    save(arguments.out, blend(arguments.first, arguments.second, arguments.share))


if __name__ == "__main__":
    main()
