"""What our processors say about themselves, as pedalboard's plugins do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NoReturn, SupportsIndex


class AudioEffect(ABC):
    """Takes audio in, gives audio out, and is tied to its process."""

    __slots__ = ()

    @property
    def is_effect(self) -> bool:
        """True: audio in, audio out."""
        return True

    @property
    def is_instrument(self) -> bool:
        """False."""
        return False

    @property
    @abstractmethod
    def latency_samples(self) -> int:
        """Samples at the host's rate by which the output of a live stream is late."""

    @property
    def reported_latency_samples(self) -> int:
        """`latency_samples`, under the name that native plugins give it."""
        return self.latency_samples

    @abstractmethod
    def prepared_for(self, sample_rate: float, block_size: int | None, channels: int) -> bool:
        """Whether `process_block` takes what `prepare` with these arguments makes ready for: `process` may have ended that."""

    @abstractmethod
    def release(self) -> None:
        """Let the latency be another one, once the stream under way has ended: what was prepared holds no longer."""

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError(f"cannot pickle 'plugin_bridge.{type(self).__name__}' object")
