"""Evolution of the denoiser's structure by quality per latency (SnapFusion, Li et al. 2023, section 3.2).

A block's value is what the loss gains by it for each millisecond that it takes. While the network is slower than wanted, its
least valuable block goes; while it is faster, its most valuable one that still fits is doubled. Losses are taken on held-out
batches with the same noise for all candidates, latencies from a table measured once on the machine at hand. All that decided is
kept in a trace, from which the same decisions follow again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from models.lhq.denoiser import BlockConfig, Denoiser


@dataclass(frozen=True)
class LatencyTable:
    """Milliseconds per second of audio: of everything but the blocks, and of each kind of block."""

    rest: float
    blocks: dict[BlockConfig, float]

    def total(self, blocks: Sequence[BlockConfig]) -> float:
        """Of a denoiser of these blocks."""
        return self.rest + sum(self.blocks[block] for block in blocks)


@dataclass(frozen=True)
class Action:
    """One decision: which block went or was doubled, how it compared, and the latency after it, in ms per second of audio."""

    kind: Literal["remove", "duplicate"]
    number: int
    block: BlockConfig
    value: float  # loss gained per millisecond
    values: tuple[float, ...]  # of all blocks, in order
    latency: float


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


def write_trace(path: Path, table: LatencyTable, target: float, actions: Sequence[Action]) -> None:
    """What was decided and on what grounds, as JSON."""
    latencies = [{**asdict(block), "ms": ms} for block, ms in table.blocks.items()]
    trace = {"target_ms": target, "rest_ms": table.rest, "block_ms": latencies, "actions": [asdict(a) for a in actions]}
    path.write_text(json.dumps(trace, indent=1))
