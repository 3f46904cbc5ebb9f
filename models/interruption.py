"""Ctrl-C and termination that wait for the end of a training step, so that the step is in the checkpoint and nothing is lost."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Holds back the first of either signal while a `with` block lasts, which is to end, its checkpoint written, once one came.

    What came is raised again where the block ends: `KeyboardInterrupt`, or whatever else the signal did before. A second one does
    not wait. Python hears signals in its main thread alone: elsewhere nothing is held back.

    Attributes
    ----------
    came : bool
        Whether there was a signal.
    """

    def __init__(self) -> None:
        self.came = False
        self._number = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                # What is ignored, as in a job under nohup, stays so; and so does a handler from outside of Python.
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._hold)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._restore()
        if self.came and error is None:
            signal.raise_signal(self._number)

    def _hold(self, number: int, frame: FrameType | None) -> None:
        if self.came:
            self._restore()
            signal.raise_signal(number)
        self.came, self._number = True, number

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
