"""How fast the streaming graphs are beside the authors' way to stream, on one thread and with the same weights.

    python -m models.llvc.bench [--variants llvc llvc-48k] [--chunk-factors 1 2] [--seconds 10] [--checkpoint G.pth config.json]

The engines take turns every few steps, so that whatever else the machine does hits all alike; on a busy machine the fastest
steps say most, as a long step is interrupted more often than a short one. Speed does not depend on the weights, so they are
random; what the integers lose does, so with a checkpoint it is that one's, on a sung phrase: as signal-to-noise ratio
against the network, and as the mean distance of the mel spectra.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dsp.singer import Note, sing
from models.command import run
from models.llvc.checkpoint import load_generator, read_config
from models.llvc.export import ExportOptions, export_stream
from models.llvc.losses import MelLoss
from models.llvc.network import VARIANTS, Generator
from models.llvc.reference import ReferenceStream
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
    """What the bench tells of an engine; times of a step in ms, `snr_db` and `mel_db` against the network's own output."""

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
    mel_db: float


def reference(generator: Generator) -> Step:
    """The authors' streaming loop."""
    stream = ReferenceStream(generator)
    return lambda chunk: stream.step(torch.from_numpy(chunk)).numpy()


def exported(generator: Generator, options: ExportOptions) -> Step:
    """The streaming graph."""
    stream = StreamModel.from_bytes(export_stream(generator, ["voice"], options), "the graph").open()

    def step(chunk: NDArray[np.float32]) -> NDArray[np.float32]:
        stream.audio_in[:] = chunk
        stream.step()
        return stream.audio_out.copy()

    return step


def random_generator(variant: str) -> Generator:
    """Untrained, at the level of speech."""
    torch.manual_seed(0)
    generator = Generator(VARIANTS[variant]).eval()
    with torch.no_grad():
        generator.out_conv[0].weight.mul_(0.06)  # type: ignore[operator]
    return generator


def sung(seconds: float, sample_rate: int) -> NDArray[np.float32]:
    """A scale on changing syllables."""
    syllables = [("a", "m"), ("e", "t"), ("i", "s"), ("o", "n"), ("u", "k")]
    notes = [Note(52 + 2 * k % 13, 0.4, *syllables[k % 5]) for k in range(math.ceil(seconds / 0.4))]
    return sing(notes, sample_rate).audio


def mel_distance_db(made: NDArray[np.float32], wanted: NDArray[np.float32], sample_rate: int) -> float:
    """Mean distance of two waveforms' mel spectra, in the bands that are not silent."""
    loss = MelLoss(sample_rate)
    one, other = (20 * torch.log10(loss.spectrum(torch.from_numpy(x)[None], loss.resolutions[0]) + 1e-9) for x in (made, wanted))
    return float((one - other).abs()[other > other.max() - 60].mean())


def measure(generator: Generator, chunk_factor: int, audio: NDArray[np.float32]) -> list[Figures]:
    """The reference in torch, the float32 graph and the int8 graph, over `audio` [n]: some turns first warm up."""
    torch.set_num_threads(1)
    config = generator.config
    engines = [
        Engine("torch", reference(generator)),
        Engine("float32", exported(generator, ExportOptions(chunk_factor))),
        Engine("int8", exported(generator, ExportOptions(chunk_factor, integer=True))),
    ]
    samples = chunk_factor * config.chunk_samples
    turns = WARM_UP_TURNS + max(2, round(len(audio) / samples / STEPS_A_TURN))
    for number, chunks in enumerate(np.resize(audio, (turns, STEPS_A_TURN, samples))):
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
        made = np.concatenate(engine.output)
        error = made - expected
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
                mel_db=mel_distance_db(made, expected, config.sample_rate),
            )
        )
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the speed of the LLVC graphs on this machine.")
    parser.add_argument("--variants", nargs="+", default=["llvc", "llvc-nc", "llvc-48k"], choices=sorted(VARIANTS))
    parser.add_argument("--chunk-factors", nargs="+", type=int, default=[1])
    parser.add_argument("--seconds", type=float, default=10.0, help="of audio for each engine")
    parser.add_argument("--checkpoint", nargs=2, type=Path, metavar=("G.pth", "config.json"), help="instead of the variants")
    arguments = parser.parse_args()
    generators = {name: random_generator(name) for name in arguments.variants}
    if arguments.checkpoint:
        path, config = arguments.checkpoint
        generators = {path.stem: load_generator(path, read_config(config))}
    for name, generator in generators.items():
        parameters = sum(parameter.numel() for parameter in generator.parameters())
        for factor in arguments.chunk_factors:
            figures = measure(generator, factor, sung(arguments.seconds, generator.config.sample_rate))
            first = figures[0]
            print(f"\n{name}: {parameters:,} parameters, chunk {first.chunk_ms:.1f} ms, latency {first.latency_ms:.1f} ms")
            print(f"{'':8}{'fastest':>9}{'median':>9}{'p99':>9}{'CPU':>9}{'x real time':>13}{'x torch':>15}{'SNR':>10}{'mel':>10}")
            for row in figures:
                times = "".join(f"{ms:6.2f} ms" for ms in (row.fastest_ms, row.median_ms, row.p99_ms, row.cpu_ms))
                ratios = "{:.1f} / {:.1f}".format(*row.times_network)
                exact = "" if row is first else f"{row.snr_db:7.0f} dB{row.mel_db:7.2f} dB"
                print(f"{row.engine:8}{times}{row.times_real_time:13.1f}{ratios:>15}{exact}")


if __name__ == "__main__":
    run(main)
