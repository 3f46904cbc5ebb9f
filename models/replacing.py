"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path, partial: Path | None = None) -> Iterator[BinaryIO]:
    """A file to write, `partial` beside `path`, which takes its place when the block ends well, and vanishes when it does not.

    A kill leaves what was at `path`, or what is new. Raises OSError, one sentence, if anything about writing fails.
    """
    partial = partial or path.with_name(path.name + ".partial")
    try:
        with partial.open("w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # a full disk may tell only now
        partial.replace(path)
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        with suppress(OSError):  # its folder is gone, none, or closed to us: the error above tells
            partial.unlink(missing_ok=True)
