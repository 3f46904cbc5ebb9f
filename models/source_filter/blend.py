"""Weights between those of two networks that have the same origin: see `models.blending`.

    python -m models.source_filter.blend --first base.npz --second clear.npz --share 0.55 --out blended.npz

What comes out is what `models.source_filter.adversarial --base` goes on from.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from models.blending import between
from models.source_filter.network import Network
from models.source_filter.weights import Trained, load_trained, save_trained


def blend(first: Trained, second: Trained, share: float) -> Trained:
    """`share` of the second's weights, the rest of the first's; the second's encoder.

    Raises ValueError, one sentence, if they have not the same voices.
    """
    if first.voices != second.voices:
        raise ValueError(f"expected two networks of the voices {first.voices}, got one of {second.voices}")
    network = Network(second.network.config)
    network.load_state_dict(between(first.network.state_dict(), second.network.state_dict(), share))
    return Trained(network.eval(), second.prior, second.voices)


def main() -> None:
    parser = argparse.ArgumentParser(description="Blend the weights of two networks.")
    parser.add_argument("--first", type=Path, required=True)
    parser.add_argument("--second", type=Path, required=True)
    parser.add_argument("--share", type=float, required=True, help="of the second, 0..1")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    if not 0 <= arguments.share <= 1:
        parser.error(f"expected a share of 0 to 1, got {arguments.share}")
    save_trained(blend(load_trained(arguments.first), load_trained(arguments.second), arguments.share), arguments.out)


if __name__ == "__main__":
    main()
