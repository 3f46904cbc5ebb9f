"""A converted vocal back over its accompaniment, at the balance that it had."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from plugin_bridge.analysis import Audio, Source, watched
from plugin_bridge.blocks import Reader, at_rate, file_rate
from plugin_bridge.files import FileError, open_writer, replacing
from plugin_bridge.recording import BLOCK_SAMPLES, open_recording
from plugin_bridge.stages import Stages

CEILING = 10 ** (-0.1 / 20)  # of a mix that would else be clipped; encoders to other formats want the tenth of a dB


@dataclass(frozen=True)
class Mix:
    """What was written.

    Attributes
    ----------
    samples, channels
    peak : float
        Largest absolute sample.
    lowered_db : float
        By which all of it was made softer, so that nothing is clipped.
    """

    samples: int
    channels: int
    peak: float
    lowered_db: float


def mixed_channels(vocal: Source, accompaniment: Path) -> int:
    """Channels of the sum of a vocal and its accompaniment; FileError if that cannot be read, or they do not go together."""
    with open_recording(accompaniment) as played:
        channels = max(vocal.channels, played.channels)
        if min(vocal.channels, played.channels) not in (1, channels):
            raise FileError(f"{accompaniment} has {played.channels} channels, which do not go with the vocal's {vocal.channels}")
        return channels


def remix(vocal: Path, gain: float, accompaniment: Path, target: Path, stages: Stages) -> Mix:
    """Write the sum of a vocal times `gain` and an accompaniment, which begin together, at the vocal's rate.

    It is as long as the longer one. Mono goes to all channels of the other.

    Raises
    ------
    FileError
        If one of them cannot be read, they do not go together, or the target cannot be written.
    """
    with open_recording(vocal) as sung, open_recording(accompaniment) as played:
        channels = mixed_channels(sung, accompaniment)
        peak = 0.0
        for block in _mixed(sung, gain, played, stages):
            peak = max(peak, float(np.abs(block).max(initial=0.0)))
        scale = min(1.0, CEILING / peak) if peak > 1 else 1.0
        rate, samples = int(sung.sample_rate), 0
        with replacing(target) as file, open_writer(file, target, rate, channels) as writer:
            for block in _mixed(sung, gain, played, stages):
                samples += block.shape[1]
                with stages.watch("write"):
                    writer.write(block * np.float32(scale))
    return Mix(samples, channels, peak * scale, -20 * float(np.log10(scale)))


def _mixed(sung: Source, gain: float, played: Source, stages: Stages) -> Iterator[Audio]:
    rate = int(sung.sample_rate)
    # To the nearest 0.01 Hz, as everywhere.
    from_rate = file_rate(played.sample_rate)
    total = max(sung.samples, -(-played.samples * rate // from_rate))
    vocal = Reader(watched(sung, stages), sung.channels)
    accompaniment = Reader(at_rate(watched(played, stages), played.channels, from_rate, Fraction(rate)), played.channels)
    for first in range(0, total, BLOCK_SAMPLES):
        count = min(BLOCK_SAMPLES, total - first)
        block: Audio = vocal.read(count) * np.float32(gain) + accompaniment.read(count)
        yield block
