"""Weights between those of two networks that have the same origin: WiSE-FT (Wortsman et al. 2022).

Along the line from what a stage began with to what it made, likeness rises evenly and DNSMOS falls late: somewhere before the end
both are better than what either run gives by stopping earlier. Between an encoder and the one that it became under those who hear
the words there is none that tells them, though: what lies between decodes the second's content.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

ENCODER = "encoder."


def between(first: Mapping[str, Tensor], second: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """`share` of the second's weights and the rest of the first's, by their names; of an encoder all of the second's.

    Raises ValueError, one sentence, if the networks differ.
    """
    structures = [{name: value.shape for name, value in weights.items()} for weights in (first, second)]
    if structures[0] != structures[1]:
        raise ValueError("expected weights of two networks of one structure, got others")
    return {
        name: second[name] if name.startswith(ENCODER) else torch.lerp(value, second[name], share)
        for name, value in first.items()
    }


def blend_arguments(description: str) -> argparse.Namespace:
    """What is to be blended, as the command line says: paths `first`, `second` and `out`, and `share`, 0 to 1."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--first", type=Path, required=True)
    parser.add_argument("--second", type=Path, required=True)
    parser.add_argument("--share", type=float, required=True, help="of the second, 0..1")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    if not 0 <= arguments.share <= 1:
        parser.error(f"expected a share of 0 to 1, got {arguments.share}")
    return arguments
