"""What the small trainings of the song engine's tests have in common: which takes they draw, and small networks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from models.lhq.content import ContentConfig
from models.lhq.denoiser import BlockConfig

DRAWN = {"seed": 3, "batch": 4, "helpers": 0.25, "shifted": 0.3}
BLOCKS = (BlockConfig("attention", 3), BlockConfig("conv", 2, 1), BlockConfig("conv", 1, 2))
CONTENT = ContentConfig(
    voices=3,
    content=8,
    encoder_width=16,
    encoder_hidden=16,
    encoder_dilations=(1,),
    condition_width=16,
    condition_hidden=16,
    condition_dilations=(1,),
)


def write_takes(folder: Path) -> Path:
    """Pack takes of two voices and a helper: noise whose mel follows the content, as far as a test needs it."""
    rng = np.random.default_rng(0)
    takes: list[dict[str, Any]] = []
    arrays: dict[str, list[Any]] = {"mel.f16": [], "features.f16": [], "other.f16": [], "scalars.f32": []}
    start = 0
    for speaker, shift, held_out in [
        (speaker, shift, held_out) for held_out in (False, True) for speaker in ("a", "b", "c") for shift in (0.0, 2.0)
    ]:
        frames = 120
        walk = np.cumsum(rng.standard_normal((frames, 1)), 0) * 0.1
        features = walk + 0.3 * rng.standard_normal((frames, 80)) - 4
        arrays["features.f16"].append(features)
        arrays["other.f16"].append(features + 0.1)
        arrays["mel.f16"].append(0.1 * np.repeat(features, 2, 1)[:, :100] + 0.05 * rng.standard_normal((frames, 100)))
        arrays["scalars.f32"].append(np.stack([walk[:, 0] - 3, np.full(frames, 200.0), np.ones(frames)], 1))
        takes.append(
            {
                "speaker": speaker,
                "target": speaker != "c",
                "held_out": held_out,
                "start": start,
                "frames": frames,
                "shift": shift if speaker != "c" else 0.0,
                "bandwidth_hz": 20_000.0 if speaker != "c" else 8_000.0,
            }
        )
        start += frames
    for name, parts in arrays.items():
        np.concatenate(parts).astype("<f4" if name.endswith("f32") else "<f2").tofile(folder / name)
    (folder / "index.json").write_text(json.dumps(takes))
    return folder
