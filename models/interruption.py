"""What ends a program; of a training after the step under way, so that the step is in the checkpoint and nothing is lost."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

# What ends a program from outside: termination, and the closing of its terminal, for which Windows has no signal.
ENDINGS: tuple[int, ...] = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
SIGNALS = (signal.SIGINT, *ENDINGS)
# What a terminal sends to all that runs in it, children too.
FROM_TERMINAL = set(SIGNALS) - {signal.SIGTERM}


def leave_to_parent() -> None:
    """In a process that its parent ends: Ctrl-C and the closing of the terminal reach it as well, and are not for it."""
    for number in FROM_TERMINAL:
        signal.signal(number, signal.SIG_IGN)


class Interruption:
    """Holds back the first of these signals while a `with` block lasts, which is to end, its checkpoint written, once one came.

    What came is raised again where the block ends: `KeyboardInterrupt`, or whatever else the signal did before. A second one does
    not wait, unless it is the terminal's end once more: the system tells of that, and so does the shell. Python hears signals in
    its main thread alone: elsewhere nothing is held back.

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
        if self.came and not number == self._number == getattr(signal, "SIGHUP", None):
            self._restore()
            signal.raise_signal(number)
        self.came, self._number = True, number

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
