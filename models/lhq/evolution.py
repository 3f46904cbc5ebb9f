"""Evolution of the denoiser's structure by quality per latency (SnapFusion, Li et al. 2023, section 3.2).

A block's value is what the loss gains by it for each millisecond that it takes. While the network is slower than wanted, its
least valuable block goes; while it is faster, its most valuable one that still fits is doubled. Losses are taken on held-out
batches with the same noise for all candidates, latencies from a table measured once on the machine at hand. Actions say on what
grounds they were decided: table and actions are a trace from which the same decisions follow again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from models.graph import load_graph
from models.lhq.denoiser import BlockConfig, Denoiser, DenoiserConfig
from models.lhq.export import export_denoiser
from models.lhq.mel import DEFAULT


@dataclass(frozen=True)
class LatencyTable:
    """Milliseconds per second of audio: of everything but the blocks, and of each kind of block."""

    rest: float
    blocks: dict[BlockConfig, float]

    def total(self, blocks: Sequence[BlockConfig]) -> float:
        """Of a denoiser of these blocks."""
        return self.rest + sum(self.blocks[block] for block in blocks)

    def as_json(self) -> dict[str, Any]:
        """As a trace and a checkpoint have it."""
        return {"rest_ms": self.rest, "block_ms": [{**asdict(block), "ms": ms} for block, ms in self.blocks.items()]}

    @classmethod
    def from_json(cls, table: dict[str, Any]) -> LatencyTable:
        """Inverse of `as_json`."""
        blocks = [dict(block) for block in table["block_ms"]]
        return cls(table["rest_ms"], {BlockConfig(**block): ms for block in blocks for ms in [block.pop("ms")]})


@dataclass(frozen=True)
class Action:
    """One decision: which block went or was doubled, how it compared, and the latency after it, in ms per second of audio."""

    kind: Literal["remove", "duplicate"]
    number: int
    block: BlockConfig
    value: float  # loss gained per millisecond
    values: tuple[float, ...]  # of all blocks, in order
    latency: float

    @classmethod
    def from_json(cls, action: dict[str, Any]) -> Action:
        """Inverse of `dataclasses.asdict`."""
        return cls(**{**action, "block": BlockConfig(**action["block"]), "values": tuple(action["values"])})


def block_values(blocks: Sequence[BlockConfig], table: LatencyTable, loss: Callable[[list[bool]], float]) -> list[float]:
    """Value of each block: how much `loss(keep)` rises without it, by its milliseconds."""
    whole = loss([True] * len(blocks))
    without = [loss([k != number for k in range(len(blocks))]) for number in range(len(blocks))]
    return [(raised - whole) / table.blocks[block] for raised, block in zip(without, blocks, strict=True)]


def choose(
    blocks: Sequence[BlockConfig], table: LatencyTable, target: float, loss: Callable[[list[bool]], float]
) -> Action | None:
    """The next action towards `target` milliseconds; None when nothing is left to do."""
    latency = table.total(blocks)
    fitting = [k for k, block in enumerate(blocks) if latency + table.blocks[block] <= target]
    if latency <= target and not fitting:
        return None
    values = block_values(blocks, table, loss)
    if latency > target:
        number = min(range(len(blocks)), key=values.__getitem__)
        change = -table.blocks[blocks[number]]
    else:
        number = max(fitting, key=values.__getitem__)
        change = table.blocks[blocks[number]]
    kind: Literal["remove", "duplicate"] = "remove" if change < 0 else "duplicate"
    return Action(kind, number, blocks[number], values[number], tuple(values), latency + change)


def apply(denoiser: Denoiser, action: Action) -> Denoiser:
    """The denoiser after the action: a copy."""
    return denoiser.without(action.number) if action.kind == "remove" else denoiser.duplicated(action.number)


def measure_latencies(sizes: DenoiserConfig, seconds: float = 10.0, repeats: int = 7) -> LatencyTable:
    """Measure a denoiser of these sizes on this machine, as it runs in a song: ONNX Runtime, one thread, float32.

    Times of the processor, not of the clock, so that what else the machine does counts little; the least of the repeats.
    """
    frames = round(seconds * DEFAULT.sample_rate / DEFAULT.hop)
    candidates: list[BlockConfig | None] = [None, *dict.fromkeys(sizes.blocks)]
    sessions = [
        load_graph(
            export_denoiser(Denoiser(replace(sizes, blocks=(block,) if block else ()))).SerializeToString(), str(block)
        ).session
        for block in candidates
    ]
    inputs = {
        "z": np.zeros((1, frames, sizes.mels), np.float32),
        "t": np.ones(1, np.float32),
        "condition": np.zeros((1, frames, sizes.condition + sizes.mels), np.float32),
    }
    taken = np.empty((repeats, len(sessions)))
    for row in taken:
        for number, session in enumerate(sessions):
            began = time.thread_time()
            session.run(None, inputs)
            row[number] = time.thread_time() - began
    least = taken.min(0) * 1000 / seconds
    blocks = {block: max(1e-3, float(ms - least[0])) for block, ms in zip(candidates, least, strict=True) if block}
    return LatencyTable(float(least[0]), blocks)
