"""Who runs first: the audio thread, and next to it whoever may hold the interpreter that it needs."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

# On Linux a thread without real-time priority waits some 3 ms for another one's turn to end, more than half a block. Real-time
# priorities are 1 to 99: programs ask for 1 unless they know better, the system's own threads have 50.
AUDIO_PRIORITY = 10
# JACK gives its clients 5. What Python's other threads do is short, but the audio waits for whoever holds the interpreter, who
# must not wait for the rest of the computer then.
OTHERS_PRIORITY = 1


def hurry_audio() -> bool:
    """Give the calling thread real-time priority; whether it has it, from here or from the audio driver."""
    if sys.platform != "linux":
        return True  # PortAudio sees to that
    if _policy(0) in (os.SCHED_FIFO, os.SCHED_RR):
        return True
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(AUDIO_PRIORITY))
    except OSError:
        return False
    return True


@contextmanager
def hurried_threads() -> Iterator[None]:
    """Give all threads that Python has now the least real-time priority, if the system allows it, and take it back.

    Threads and processes that they start have none.
    """
    if sys.platform != "linux":
        yield
        return
    hurried: list[int] = []
    with suppress(OSError):  # it is not allowed: a wish, no need
        for number in (thread.native_id for thread in threading.enumerate()):
            if number is not None and _policy(number) == os.SCHED_OTHER:
                os.sched_setscheduler(number, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(OTHERS_PRIORITY))
                hurried.append(number)
    try:
        yield
    finally:
        for number in hurried:
            with suppress(OSError):  # it has ended
                # Few may take the flag away again; here it only keeps a raised niceness from what they start.
                os.sched_setscheduler(number, os.SCHED_OTHER | os.SCHED_RESET_ON_FORK, os.sched_param(0))


def _policy(number: int) -> int:
    return os.sched_getscheduler(number) & ~os.SCHED_RESET_ON_FORK
