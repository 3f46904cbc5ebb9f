"""Where a training runs."""

from __future__ import annotations

import torch

CPU = torch.device("cpu")
DEVICES = ("cpu", "cuda")


def pick_device(name: str | None) -> torch.device:
    """The device "cpu" or "cuda"; None is a GPU if there is one, else the CPU. ValueError, one sentence, for what is not there."""
    if name not in (*DEVICES, None):
        raise ValueError(f"the device must be one of {', '.join(DEVICES)}, not {name!r}")
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise ValueError("expected a GPU for the device cuda, but torch finds none")
    return torch.device(name or ("cuda" if there else "cpu"))


def half_precision(device: torch.device) -> torch.autocast:
    """Matrix products in bfloat16 where the processor has them (twice as fast), else in float32: emulated, they are slower."""
    gpu = device.type == "cuda"
    has = torch.cuda.is_bf16_supported(including_emulation=False) if gpu else torch.cpu._is_avx512_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=bool(has))
