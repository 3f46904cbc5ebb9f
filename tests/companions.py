"""For tests of the processes beside that of the audio."""

import multiprocessing


def server_process() -> int:
    """The one that was started last."""
    youngest = max(multiprocessing.active_children(), key=lambda process: int(process.name.rpartition("-")[2]))
    assert youngest.pid is not None
    return youngest.pid
