"""How fast the streaming graphs are beside the plain network, on one thread and with the same weights.

    python -m models.llvc.bench [--variants llvc llvc-48k] [--chunk-factors 1 2] [--seconds 10]

The engines take turns every few steps, so that whatever else the machine does hits all alike; on a busy machine the fastest
steps say most, as a long step is interrupted more often than a short one. Weights are random: speed does
not depend on them, and the integers' loss, given as the signal-to-noise ratio against the network, hardly does.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from models.llvc.export import ExportOptions, export_stream
from models.llvc.network import VARIANTS, Generator
from models.stream import StreamModel

Step = Callable[[NDArray[np.float32]], NDArray[np.float32]]

STEPS_A_TURN = 20
WARM_UP_TURNS = 2  # the first steps fault pages in and warm the caches


@dataclass
class Engine:
    """Something that converts a chunk a step, and what was measured of it: `step_s` wall-clock, `cpu_s` of this thread in all."""

    name: str
    step: Step
    output: list[NDArray[np.float32]] = field(default_factory=list)
    step_s: list[float] = field(default_factory=list)
    cpu_s: float = 0.0

    def turn(self, chunks: NDArray[np.float32]) -> None:
        cpu = time.thread_time()
        for chunk in chunks:
            start = time.perf_counter()
            made = self.step(chunk)
            self.step_s.append(time.perf_counter() - start)
            self.output.append(made)
        self.cpu_s += time.thread_time() - cpu


@dataclass(frozen=True)
class Figures:
    """What the bench tells of an engine; times of a step in ms, `snr_db` against the network's own output."""

    engine: str
    chunk_ms: float
    latency_ms: float
    fastest_ms: float
    median_ms: float
    p99_ms: float
    cpu_ms: float
    times_real_time: float
    times_network: tuple[float, float]  # by the fastest steps, by the medians
    snr_db: float


def plain(generator: Generator) -> Step:
    """The network's own streaming loop."""
    state = generator.stream_state(1)

    @torch.inference_mode()
    def step(chunk: NDArray[np.float32]) -> NDArray[np.float32]:
        nonlocal state
        made, state = generator.step(torch.from_numpy(chunk)[None, None], state)
        return made[0, 0].numpy()

    return step


def exported(generator: Generator, options: ExportOptions) -> Step:
    """The streaming graph."""
    stream = StreamModel.from_bytes(export_stream(generator, ["voice"], options), "the graph").open()

    def step(chunk: NDArray[np.float32]) -> NDArray[np.float32]:
        stream.audio_in[:] = chunk
        stream.step()
        return stream.audio_out.copy()

    return step


def measure(variant: str, chunk_factor: int, seconds: float) -> list[Figures]:
    """The network, its float32 graph and its int8 graph, over `seconds` of noise each."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = VARIANTS[variant]
    generator = Generator(config).eval()
    with torch.no_grad():
        generator.out_conv[0].weight.mul_(0.06)  # type: ignore[operator]  # the level of speech
    engines = [
        Engine("torch", plain(generator)),
        Engine("float32", exported(generator, ExportOptions(chunk_factor))),
        Engine("int8", exported(generator, ExportOptions(chunk_factor, integer=True))),
    ]
    samples = chunk_factor * config.chunk_samples
    turns = WARM_UP_TURNS + max(2, round(seconds * config.sample_rate / samples / STEPS_A_TURN))
    noise = np.random.default_rng(0)
    for number in range(turns):
        chunks = (0.1 * noise.standard_normal((STEPS_A_TURN, samples))).astype(np.float32)
        for engine in engines:
            if number == WARM_UP_TURNS:
                engine.step_s.clear()
                engine.cpu_s = 0.0
            engine.turn(chunks)
    expected = np.concatenate(engines[0].output)
    chunk_ms = 1e3 * samples / config.sample_rate
    figures = []
    for engine in engines:
        fastest, median, p99 = (1e3 * float(p) for p in np.percentile(engine.step_s, [0, 50, 99]))
        if engine is engines[0]:
            network_ms = (fastest, median)
        error = np.concatenate(engine.output) - expected
        figures.append(
            Figures(
                engine=engine.name,
                chunk_ms=chunk_ms,
                latency_ms=chunk_ms + 1e3 * config.stride / config.sample_rate,
                fastest_ms=fastest,
                median_ms=median,
                p99_ms=p99,
                cpu_ms=1e3 * engine.cpu_s / len(engine.step_s),
                times_real_time=chunk_ms / median,
                times_network=(network_ms[0] / fastest, network_ms[1] / median),
                snr_db=10 * float(np.log10(np.mean(expected**2) / max(float(np.mean(error**2)), 1e-30))),
            )
        )
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the speed of the LLVC graphs on this machine.")
    parser.add_argument("--variants", nargs="+", default=["llvc", "llvc-nc", "llvc-48k"], choices=sorted(VARIANTS))
    parser.add_argument("--chunk-factors", nargs="+", type=int, default=[1])
    parser.add_argument("--seconds", type=float, default=10.0, help="of audio for each engine")
    arguments = parser.parse_args()
    for variant in arguments.variants:
        parameters = sum(parameter.numel() for parameter in Generator(VARIANTS[variant]).parameters())
        for factor in arguments.chunk_factors:
            figures = measure(variant, factor, arguments.seconds)
            first = figures[0]
            print(f"\n{variant}: {parameters:,} parameters, chunk {first.chunk_ms:.1f} ms, latency {first.latency_ms:.1f} ms")
            print(f"{'':8}{'fastest':>9}{'median':>9}{'p99':>9}{'CPU':>9}{'x real time':>13}{'x torch':>15}{'to torch':>10}")
            for row in figures:
                times = "".join(f"{ms:6.2f} ms" for ms in (row.fastest_ms, row.median_ms, row.p99_ms, row.cpu_ms))
                ratios = "{:.1f} / {:.1f}".format(*row.times_network)
                exact = "" if row is first else f"{row.snr_db:7.0f} dB"
                print(f"{row.engine:8}{times}{row.times_real_time:13.1f}{ratios:>15}{exact}")


if __name__ == "__main__":
    main()
