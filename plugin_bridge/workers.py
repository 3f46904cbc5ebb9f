"""Work for several processes at once that can be stopped: what is under way is broken off, what waits is not begun."""

from __future__ import annotations

import _thread
import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing.connection import Connection
from types import FrameType
from typing import TypeVar

from models.interruption import leave_to_parent

Job = TypeVar("Job")
Result = TypeVar("Result")


def spread(work: Callable[[Job], Result], jobs: Iterable[Job], workers: int) -> Iterator[tuple[Job, Future[Result]]]:
    """Do `work` on each job, in as many processes as `workers`; yields each job as it ends, and what came of it.

    Whoever closes the iterator, or is interrupted, has the work under way broken off by a KeyboardInterrupt in its process, and
    waits until that has tidied up.

    Raises
    ------
    ChildProcessError
        If the system ends a process.
    """
    # Not forked: threads of libraries do not survive that.
    context = multiprocessing.get_context("spawn")
    # A pipe, whose end the system tells even if one of the two was killed.
    read, write = context.Pipe(duplex=False)
    with read, write, ProcessPoolExecutor(workers, context, _begin, (read,)) as pool:
        waiting = iter(jobs)
        running: dict[Future[Result], Job] = {}
        try:
            while True:
                # No more than can begin: what lies in the pool's queue cannot be called off.
                for job in islice(waiting, workers - len(running)):
                    running[pool.submit(_do, work, job)] = job
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    if isinstance(future.exception(), BrokenProcessPool):
                        raise BrokenProcessPool
                    yield running.pop(future), future
        except BrokenProcessPool:
            raise ChildProcessError("the system ended a worker, perhaps for its memory: fewer of them need less") from None
        finally:
            write.close()


_parent: Connection  # of a worker


def _begin(parent: Connection) -> None:
    """Prepare a worker. Its parent says when to stop."""
    global _parent
    _parent = parent
    leave_to_parent()
    threading.Thread(target=_await_stop, daemon=True).start()


def _stopped(wait_s: float | None) -> bool:
    """Whether the parent has stopped, within so many seconds or at some time."""
    try:
        return _parent.poll(wait_s)
    except OSError:  # so it is told on Windows
        return True


def _await_stop() -> None:
    _stopped(None)
    _thread.interrupt_main(signal.SIGTERM)  # does nothing between jobs


def _do(work: Callable[[Job], Result], job: Job) -> Result:
    signal.signal(signal.SIGTERM, _break_off)
    try:
        if _stopped(0):
            raise KeyboardInterrupt
        return work(job)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _break_off(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once, or tidying up would be broken off too
    raise KeyboardInterrupt
