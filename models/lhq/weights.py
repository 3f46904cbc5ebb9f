"""The shipped song engine as weights that go on learning: what `train-song` starts from, in a file without pickles.

The content encoder is not among them. It learns nothing more, so its graph in the bundled pack is the one to use, and the
file names that graph's hash. Nor is the denoiser of `mobile`: the file says which blocks of the large one it kept.
"""

from __future__ import annotations

import importlib.resources
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from models.lhq.content import Conditioning, ContentConfig
from models.lhq.denoiser import Denoiser, DenoiserConfig
from models.lhq.vocoder import Vocoder, VocoderConfig
from models.replacing import replacing
from models.source_filter.adversarial import Judges
from models.source_filter.weights import UNREADABLE

BASE_FILE = "base.npz"


@dataclass(frozen=True)
class Base:
    """The trained networks.

    Attributes
    ----------
    conditioning : Conditioning
        With the embeddings of the bundled voices.
    denoiser : Denoiser
        The student of one step.
    mobile : tuple of int
        Numbers of the blocks of it that `mobile` has, in order.
    vocoder, judges
        And the discriminators it was trained against.
    encoder : str
        sha256 of the graph of the content encoder, as `lhq` has it.
    """

    conditioning: Conditioning
    denoiser: Denoiser
    mobile: tuple[int, ...]
    vocoder: Vocoder
    judges: Judges
    encoder: str

    def networks(self) -> dict[str, nn.Module]:
        """By the names that their arrays begin with."""
        parts = ("conditioning", "denoiser", "vocoder", "judges")
        return {name: getattr(self, name) for name in parts}


def save_base(base: Base, path: Path) -> None:
    """Write beside, then rename; weights in half precision."""
    about = {
        "content": asdict(base.conditioning.config),
        "denoiser": asdict(base.denoiser.config),
        "mobile": base.mobile,
        "vocoder": asdict(base.vocoder.config),
        "encoder": base.encoder,
    }
    arrays = {
        f"{part}.{name}": value.numpy().astype(np.float16)
        for part, network in base.networks().items()
        for name, value in network.state_dict().items()
    }
    with replacing(path) as file:
        np.savez_compressed(file, about=np.array(json.dumps(about)), **arrays)


def load_base(path: Path | None = None) -> Base:
    """Read the networks: from `path`, or those that come with the package.

    Raises ValueError, one sentence, if the file does not hold them.
    """
    source = path or Path(str(importlib.resources.files(__package__) / BASE_FILE))
    try:
        with np.load(source, allow_pickle=False) as arrays:
            about: dict[str, Any] = json.loads(str(arrays["about"]))
            base = Base(
                Conditioning(ContentConfig(**about["content"])),
                Denoiser(DenoiserConfig.from_json(about["denoiser"])),
                tuple(int(number) for number in about["mobile"]),
                Vocoder(VocoderConfig(**about["vocoder"])),
                Judges(1),
                str(about["encoder"]),
            )
            for part, network in base.networks().items():
                network.load_state_dict(
                    {name: torch.from_numpy(arrays[f"{part}.{name}"].astype(np.float32)) for name in network.state_dict()}
                )
            return base
    except UNREADABLE as error:
        problem = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"expected the networks of a song engine in {source}, but they cannot be read ({problem})") from None
