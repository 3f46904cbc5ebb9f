"""Weights between those of two networks that have the same origin: WiSE-FT (Wortsman et al. 2022).

Along the line from what a stage began with to what it made, likeness rises evenly and DNSMOS falls late: somewhere before the end
both are better than what either run gives by stopping earlier. Between an encoder and the one that it became under those who hear
the words there is none that tells them, though: what lies between decodes the second's content.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

ENCODER = "encoder."


def between(first: Mapping[str, Tensor], second: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """`share` of the second's weights and the rest of the first's, by their names; of an encoder all of the second's."""
    return {
        name: second[name] if name.startswith(ENCODER) else torch.lerp(value, second[name], share)
        for name, value in first.items()
    }
