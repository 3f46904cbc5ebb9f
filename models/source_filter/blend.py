"""Weights between those of two networks that have the same origin: see `models.blending`.

    python -m models.source_filter.blend --first base.npz --second clear.npz --share 0.55 --out blended.npz

What comes out is what `models.source_filter.adversarial --base` goes on from.
"""

from __future__ import annotations

from models.blending import between, blend_arguments
from models.command import run
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
    arguments = blend_arguments("Blend the weights of two networks.")
    save_trained(blend(load_trained(arguments.first), load_trained(arguments.second), arguments.share), arguments.out)


if __name__ == "__main__":
    run(main)
