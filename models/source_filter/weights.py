"""A trained network as a file: half-precision arrays and a line of JSON. No pickle, so a downloaded file can only be wrong."""

from __future__ import annotations

import importlib.resources
import json
import zipfile
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.checkpoint import restoring
from models.replacing import replacing
from models.source_filter.network import Network, NetworkConfig

BASE_FILE = "base.npz"
# What the reading of arrays from any file raises: of one that a full disk cut off, the last three.
UNREADABLE = (OSError, KeyError, TypeError, RuntimeError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Trained:
    """A network, the mean its features start from, and the names of its voices, the first embeddings in order."""

    network: Network
    prior: Tensor
    voices: list[str]


def save_trained(trained: Trained, path: Path) -> None:
    """Write beside, then rename."""
    arrays = {name: value.numpy().astype(np.float16) for name, value in trained.network.state_dict().items()}
    about = json.dumps({"config": asdict(trained.network.config), "voices": trained.voices})
    with replacing(path) as file:
        np.savez_compressed(file, about=np.array(about), prior=trained.prior.numpy(), **arrays)


def load_checkpoint(path: Path) -> Trained:
    """The averaged network of a training run's checkpoint. Raises CheckpointError if it does not hold one."""
    with restoring(path) as state:
        noise = state.get("content_noise", NetworkConfig.content_noise)
        network = Network(NetworkConfig(voices=state["speakers"], content_noise=noise))
        network.load_state_dict(state["average"])
        return Trained(network.eval(), state["prior"], state["voices"])


def load_trained(path: Path | None = None) -> Trained:
    """Read a network: from `path`, or the base that comes with the package.

    Raises ValueError, one sentence, if the file does not hold one.
    """
    source = path or Path(str(importlib.resources.files(__package__) / BASE_FILE))
    try:
        with np.load(source, allow_pickle=False) as arrays:
            about = json.loads(str(arrays["about"]))
            network = Network(NetworkConfig(**about["config"]))
            network.load_state_dict(
                {name: torch.from_numpy(arrays[name].astype(np.float32)) for name in network.state_dict()}
            )
            return Trained(network, torch.from_numpy(arrays["prior"]), [str(voice) for voice in about["voices"]])
    except UNREADABLE as error:
        problem = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"expected a trained source-filter network in {source}, but it cannot be read ({problem})") from None
