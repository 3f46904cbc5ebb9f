"""The song engine where an effect sits, as far as it can: for whole recordings."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np
from numpy.typing import NDArray

from plugin_bridge.analysis import cleaned
from plugin_bridge.converter import LoadedVoice, Voice, VoiceConverter
from plugin_bridge.render import SongRenderer

if TYPE_CHECKING:
    from dsp.f0 import Method
    from models.pack import Size

OFFLINE = (
    "the song engine converts whole recordings: call process with reset=True, alone or in a Board, or take engine='stream' "
    "to convert block by block"
)


class SongConverter(VoiceConverter):
    """What `VoiceConverter(..., engine="song")` makes: `process` with `SongRenderer`'s sound, and no latency.

    `threads`, `size`, `steps`, `seed`, `method` and `encoder` are `SongRenderer`'s arguments, and hold for every voice it is given.

    With reset=False `process` raises RuntimeError, as all that belongs to streams does; and ModelError if the song engine fails.
    """

    __slots__ = ("_made", "_renderer")

    _kind = " engine='song'"

    def __init__(
        self,
        voice: Voice | Path = "pjs",
        *,
        engine: str = "song",
        threads: int = 2,
        size: Size = "lhq",
        steps: int = 1,
        seed: int = 0,
        method: Method = "swift",
        encoder: str | Path | None = None,
        **settings: object,
    ) -> None:
        super().__init__(voice, **settings)  # type: ignore[arg-type]
        self._made = partial(
            SongRenderer, threads=threads, size=size, steps=steps, seed=seed, method=method, encoder=encoder
        )
        self._renderer = self._made(self._target.shown)

    @property
    def latency_samples(self) -> int:
        """None: what comes out lies where it went in."""
        return 0

    @property
    def lookahead_samples(self) -> int:
        """None that anybody waits for."""
        return 0

    def load_voice(self, voice: Voice, shifts: Mapping[str, float] | None = None) -> LoadedVoice:
        """RuntimeError: there is no stream to load it for."""
        raise RuntimeError(OFFLINE)

    def prepare(
        self, sample_rate: float, block_size: int | None = None, channels: int = 1, *, steer_pitch: bool = False
    ) -> NoReturn:
        """RuntimeError: there are no blocks."""
        raise RuntimeError(OFFLINE)

    def process_block(self, x: NDArray[np.floating], out: NDArray[np.float32] | None = None) -> NoReturn:
        """RuntimeError: there are no blocks."""
        raise RuntimeError(OFFLINE)

    def flush(self) -> NDArray[np.float32]:
        """Nothing: all was given with the recording."""
        return self._layout.restore(np.empty((1, 0), np.float32))

    def _processed(self, samples: NDArray[np.floating], rate: Fraction, reset: bool) -> NDArray[np.float32]:
        if rate.denominator != 1:
            raise ValueError(f"the song engine needs a sample rate of whole Hz, got {float(rate)}")
        if not reset:
            raise RuntimeError(OFFLINE)
        source = np.asarray(samples, np.float32)
        if samples.size == 0 or self.bypass:
            return cleaned(source)
        return self._convert(source, int(rate))

    def _take_voice(self, loaded: LoadedVoice) -> None:
        self._renderer = self._made(loaded.target.shown)  # a voice that cannot sing songs is refused here
        super()._take_voice(loaded)

    def _convert(self, source: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
        renderer = self._renderer
        numbers = {name: getattr(self, name) for name in ("pitch_shift", "formant_shift", "mix", "gain_db", "gate_db")}
        parts = [source] if self._stereo == "mid" else list(source[:, None])
        return np.concatenate([renderer.convert(part, rate, **numbers) for part in parts])
