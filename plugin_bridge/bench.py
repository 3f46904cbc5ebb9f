"""How fast a voice runs on this machine, how late it is, and what it holds in memory."""

from __future__ import annotations

import os
import platform
import sys
import time
from importlib.metadata import version
from typing import TypedDict

import numpy as np

from plugin_bridge.converter import VoiceConverter
from plugin_bridge.demo import demo_phrase
from plugin_bridge.voices import find_voice

SAMPLE_RATES = (44_100, 48_000, 96_000)
BLOCKS = (64, 128, 256, 512, 1024, None)
WARM_UP_STEPS = 50  # the first ones fault pages in and warm the caches


class GraphFigures(TypedDict):
    """The network alone, step by step on one thread; `step_ms` has p50, p95, p99 and max."""

    sample_rate: int
    chunk: int
    lookahead: int
    chunk_ms: float
    times_real_time: float
    cpu_seconds_per_second: float
    step_ms: dict[str, float]
    p99_share_of_chunk: float


class LatencyFigures(TypedDict):
    """Reported latency of a converter; `block` None stands for blocks of varying length."""

    sample_rate: int
    block: int | None
    latency_samples: int
    latency_ms: float


class SpeedFigures(TypedDict):
    """A whole offline conversion, resampling included."""

    sample_rate: int
    times_real_time: float


class Figures(TypedDict):
    """All that `bench` measures, ready for JSON. Memory is in MiB; None where the system does not tell it."""

    versions: dict[str, str]
    machine: dict[str, str | int]
    voice: str
    graph: GraphFigures
    conversion: list[SpeedFigures]
    latency: list[LatencyFigures]
    memory_mib: dict[str, float | None]


def measure(voice: str, seconds: float) -> Figures:
    """Measure a voice with `seconds` of audio each for the network and for each sample rate.

    Raises
    ------
    ValueError
        For an unknown voice or a broken pack.
    """
    before = resident_mib()
    return {
        "versions": {name: version(name) for name in ("plugin_bridge", "onnxruntime", "numpy", "pedalboard")}
        | {"python": platform.python_version()},
        "machine": {"system": platform.system(), "processor": platform.machine(), "threads": os.cpu_count() or 1},
        "voice": voice,
        "graph": _graph(voice, seconds),
        "conversion": [_speed(voice, rate, seconds) for rate in SAMPLE_RATES],
        "latency": [_latency(voice, rate, block) for rate in SAMPLE_RATES for block in BLOCKS],
        "memory_mib": {"before": before, "resident": resident_mib(), "peak": _peak_mib()},
    }


def resident_mib() -> float | None:
    """Memory this process has resident now; None where the system does not tell it."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            pages = int(file.read().split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _peak_mib() -> float | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _graph(voice: str, seconds: float) -> GraphFigures:
    address = find_voice(voice)
    model = address.pack.stream_model()
    stream = model.open()
    stream.voice[:] = 0
    stream.voice[address.index] = 1
    phrase, _ = demo_phrase()
    steps = max(100, int(seconds * model.sample_rate / model.chunk))
    chunks = np.resize(phrase[0], (steps, model.chunk))
    for chunk in chunks[:WARM_UP_STEPS]:
        stream.audio_in[:] = chunk
        stream.step()
    times_s = np.empty(steps)
    cpu = time.process_time()
    for k, chunk in enumerate(chunks):
        stream.audio_in[:] = chunk
        start = time.perf_counter()
        stream.step()
        times_s[k] = time.perf_counter() - start
    cpu = time.process_time() - cpu
    chunk_s = model.chunk / model.sample_rate
    p50, p95, p99 = (float(p) for p in np.percentile(times_s, [50, 95, 99]))
    return {
        "sample_rate": model.sample_rate,
        "chunk": model.chunk,
        "lookahead": model.lookahead,
        "chunk_ms": 1e3 * chunk_s,
        "times_real_time": steps * chunk_s / float(times_s.sum()),
        "cpu_seconds_per_second": cpu / (steps * chunk_s),
        "step_ms": {"p50": 1e3 * p50, "p95": 1e3 * p95, "p99": 1e3 * p99, "max": 1e3 * float(times_s.max())},
        "p99_share_of_chunk": p99 / chunk_s,
    }


def _speed(voice: str, sample_rate: int, seconds: float) -> SpeedFigures:
    phrase, _ = demo_phrase()
    audio = np.resize(phrase[0], int(seconds * sample_rate))
    converter = VoiceConverter(voice)
    converter(audio[:sample_rate], sample_rate)
    start = time.perf_counter()
    converter(audio, sample_rate)
    return {"sample_rate": sample_rate, "times_real_time": seconds / (time.perf_counter() - start)}


def _latency(voice: str, sample_rate: int, block: int | None) -> LatencyFigures:
    converter = VoiceConverter(voice)
    converter.prepare(sample_rate, block)
    samples = converter.latency_samples
    return {
        "sample_rate": sample_rate,
        "block": block,
        "latency_samples": samples,
        "latency_ms": 1e3 * samples / sample_rate,
    }
