"""Weights between those of two students that have the same origin: see `models.blending`.

    python -m models.lhq.blend --first student.pt --second sharp-student.pt --share 0.6 --out blended.pt
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from models.blending import between
from models.source_filter.train import save

MODULES = ("denoiser", "conditioner")


def blend(first: Path, second: Path, share: float) -> dict[str, Any]:
    """What `train_denoiser.load_result` reads: `share` of the second's weights, the rest of the first's; the second's encoder.

    Raises ValueError, one sentence, if their networks differ.
    """
    one, other = (torch.load(path, map_location="cpu", weights_only=True) for path in (first, second))
    if one["sizes"] != other["sizes"]:
        raise ValueError(f"expected two results of one structure, but {second} differs from {first}")
    blended = {name: between(one[name], other[name], share) for name in MODULES}
    return blended | {"sizes": one["sizes"], "steps": one["steps"]}


def main() -> None:
    parser = argparse.ArgumentParser(description="Blend the weights of two students.")
    parser.add_argument("--first", type=Path, required=True)
    parser.add_argument("--second", type=Path, required=True)
    parser.add_argument("--share", type=float, required=True, help="of the second, 0..1")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    if not 0 <= arguments.share <= 1:
        parser.error(f"expected a share of 0 to 1, got {arguments.share}")
    save(arguments.out, blend(arguments.first, arguments.second, arguments.share))


if __name__ == "__main__":
    main()
