"""Evolution on toys whose right answer is known: every block takes off a known part of the loss, for a known time."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest

pytest.importorskip("torch")

from models.lhq.denoiser import BlockConfig, DenoiserConfig
from models.lhq.evolution import Action, LatencyTable, choose, measure_latencies

SMALL, LARGE, SLOW = BlockConfig("conv", 1, 1), BlockConfig("conv", 7, 4), BlockConfig("attention", 8)
TABLE = LatencyTable(1.0, {SMALL: 1.0, LARGE: 2.0, SLOW: 4.0})


def evolve(blocks: list[BlockConfig], parts: list[float], target: float) -> list[Action]:
    """Until nothing is left to do. A doubled block takes off half as much again."""
    blocks, parts, actions = list(blocks), list(parts), []
    while action := choose(
        blocks, TABLE, target, lambda keep: 10 - sum(p for p, k in zip(parts, keep, strict=True) if k)
    ):
        actions.append(action)
        number = action.number
        if action.kind == "remove":
            del blocks[number], parts[number]
        else:
            blocks.insert(number + 1, blocks[number])
            parts.insert(number + 1, parts[number] / 2)
        assert action.latency == pytest.approx(TABLE.total(blocks))
    return actions


def test_the_least_valuable_go_in_order_of_loss_per_millisecond_until_the_target_is_met() -> None:
    """Values 0.9, 0.5, 0.4 and 0.25: the slow block goes first though it takes off most, and the small one stays."""
    actions = evolve([SMALL, LARGE, SLOW, LARGE], [0.9, 1.0, 1.0, 0.8], 4.0)
    assert [(a.kind, a.block) for a in actions] == [("remove", SLOW), ("remove", LARGE)]
    assert [a.number for a in actions] == [2, 2]
    np.testing.assert_allclose(actions[0].values, [0.9, 0.5, 0.25, 0.4])
    assert [a.latency for a in actions] == [6.0, 4.0]


def test_a_harmful_block_goes_before_a_useless_one() -> None:
    assert evolve([SMALL, LARGE, SMALL], [0.0, -0.1, 1.0], 4.0)[0].number == 1


def test_room_is_filled_with_the_most_valuable_block_that_fits() -> None:
    """4 ms of 9 taken. LARGE's 0.5 per ms is worth more than SMALL's 0.3, twice; then only SMALL still fits."""
    actions = evolve([SMALL, LARGE], [0.3, 1.0], 9.0)
    assert [(a.kind, a.block) for a in actions] == [("duplicate", block) for block in (LARGE, LARGE, SMALL)]
    assert [a.latency for a in actions] == [6.0, 8.0, 9.0]


def test_nothing_is_done_at_the_target() -> None:
    assert choose([SLOW], TABLE, 5.0, lambda keep: pytest.fail("nothing to measure")) is None


def test_table_and_actions_are_the_grounds_of_every_decision() -> None:
    """From what they say as JSON, the same decisions follow."""
    blocks = [SMALL, LARGE, SLOW, LARGE]
    actions = evolve(blocks, [0.9, 1.0, 1.0, 0.8], 4.0)
    table = LatencyTable.from_json(json.loads(json.dumps(TABLE.as_json())))
    assert table == TABLE
    for action in actions:
        read = Action.from_json(json.loads(json.dumps(asdict(action))))
        assert read == action
        assert read.number == min(range(len(blocks)), key=read.values.__getitem__)
        del blocks[read.number]
        assert table.total(blocks) == read.latency


def test_latencies_are_measured_on_this_machine() -> None:
    """A block of four times the work takes longer; all take some time."""
    small, large = BlockConfig("conv", 1, 1), BlockConfig("conv", 1, 8)
    table = measure_latencies(DenoiserConfig(0.1, blocks=(small, large)), seconds=2.0, repeats=3)
    assert table.rest > 0 and set(table.blocks) == {small, large}
    assert table.blocks[large] > table.blocks[small] > 0
