"""The bench of the graphs: every engine converts the same noise, and the figures are those of the network."""

import pytest

torch = pytest.importorskip("torch")

from models.llvc.bench import measure  # noqa: E402


def test_the_bench_compares_engines_on_the_same_input():
    network, single, integer = measure("llvc-48k", chunk_factor=1, seconds=0.2)
    assert [row.engine for row in (network, single, integer)] == ["torch", "float32", "int8"]
    assert network.chunk_ms == pytest.approx(32 / 3) and network.latency_ms == pytest.approx(12)
    assert network.times_network == (1, 1)
    assert single.snr_db > 100  # the same numbers but for rounding
    assert 20 < integer.snr_db < 80
    assert all(0 < row.fastest_ms <= row.median_ms <= row.p99_ms for row in (network, single, integer))
