"""The LLVC engines side by side, as in the paper's table: size, latency, speed, and quality where a voice was trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from plugin_bridge.voices import find_voice, voices

SPEED = ("Reference", "float32", "int8", "p99 of the chunk")
COLUMNS = ("Engine", "Parameters", "Latency", *SPEED, "Speaker cosine", "DNSMOS", "Voice")


@dataclass(frozen=True)
class EngineFigures:
    """Of one variant of the network. Speeds are in times real time on one thread, by the median step.

    Attributes
    ----------
    parameters : int
    latency_ms : float
        Chunk and look-ahead.
    reference, float32, int8 : float
        Of the authors' streaming loop, derived again in PyTorch, and of the two graphs.
    times_reference : tuple of float
        Speed of the float32 and the int8 graph over the reference, by the fastest steps: on a busy machine they say most.
    p99_of_chunk : tuple of float
        Share of a chunk's duration that 99 of 100 steps stay below, float32 and int8.
    int8_snr_db : float
        Signal over error of int8, on random weights.
    voice : str or None
        A voice of this variant that states its quality, the best; its figures follow.
    """

    engine: str
    parameters: int
    latency_ms: float
    reference: float
    float32: float
    int8: float
    times_reference: tuple[float, float]
    p99_of_chunk: tuple[float, float]
    int8_snr_db: float
    voice: str | None
    speaker_cosine: float | None
    dnsmos: float | None

    def row(self) -> tuple[str, ...]:
        """For `COLUMNS`."""
        return (
            self.engine,
            f"{self.parameters:,}",
            f"{self.latency_ms:.1f} ms",
            f"{self.reference:.1f} x",
            f"{self.float32:.1f} x ({self.times_reference[0]:.1f})",
            f"{self.int8:.1f} x ({self.times_reference[1]:.1f})",
            "{:.0%} / {:.0%}".format(*self.p99_of_chunk),
            "-" if self.speaker_cosine is None else f"{self.speaker_cosine:.2f}",
            "-" if self.dnsmos is None else f"{self.dnsmos:.2f}",
            self.voice or "not trained",
        )


def measure_engines(seconds: float, done: Callable[[EngineFigures], None]) -> list[EngineFigures]:
    """Measure every variant with `seconds` of audio for each of its engines. Needs torch; raises ImportError without."""
    from models.llvc.bench import Figures, measure, random_generator, sung
    from models.llvc.network import VARIANTS, GeneratorConfig

    figures: list[EngineFigures] = []
    measured: dict[GeneratorConfig, list[Figures]] = {}  # llvc and llvc-hfg are one network
    for variant, config in VARIANTS.items():
        generator = random_generator(variant)
        if config not in measured:
            measured[config] = measure(generator, 1, sung(seconds, config.sample_rate))
        network, single, integer = measured[config]
        voice, quality = trained_voice(variant)
        figures.append(
            EngineFigures(
                engine=variant,
                parameters=sum(parameter.numel() for parameter in generator.parameters()),
                latency_ms=network.latency_ms,
                reference=network.times_real_time,
                float32=single.times_real_time,
                int8=integer.times_real_time,
                times_reference=(single.times_network[0], integer.times_network[0]),
                p99_of_chunk=(single.p99_ms / single.chunk_ms, integer.p99_ms / integer.chunk_ms),
                int8_snr_db=integer.snr_db,
                voice=voice,
                speaker_cosine=quality.get("speaker_cosine"),
                dnsmos=quality.get("dnsmos_overall"),
            )
        )
        done(figures[-1])
    return figures


def trained_voice(variant: str) -> tuple[str | None, dict[str, float]]:
    """The voice of this variant whose card states the largest speaker cosine, and its figures; None and nothing without one."""
    cards = [find_voice(name).card for name in voices()]
    # The kind that training writes: "llvc, taught by ...".
    stated = [card for card in cards if card.kind.split(",")[0] == variant and "speaker_cosine" in card.quality]
    best = max(stated, key=lambda card: card.quality["speaker_cosine"], default=None)
    return (None, {}) if best is None else (best.name, dict(best.quality))
