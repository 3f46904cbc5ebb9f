"""Checkpoints of trainings. What is read are tensors and plain values alone; one sentence tells whatever does not fit.

A checkpoint is a pickle, so nothing in it is trusted, not even in a folder of the user's own: a download may lie there, or what
a full disk left.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from models.replacing import replacing

# The largest, LLVC's with discriminators and optimisers, has 0.9 GB.
MAX_CHECKPOINT_BYTES = 2 << 30


class CheckpointError(ValueError):
    """A checkpoint or its config cannot be used; the message is one sentence that names the file."""


def save(path: Path, state: dict[str, Any]) -> None:
    """Write beside, then rename: a kill leaves the old checkpoint or the new one. Raises OSError, as on a full disk."""
    with replacing(path) as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:
            # PyTorch tells of where in its archive it was; behind that is what the system said.
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def read_checkpoint(path: Path, what: str, *, mapped: bool = False) -> dict[str, Any]:
    """What a checkpoint holds, on the CPU; `what` is what is expected in it. No code in it is run.

    `mapped` leaves in the file what is never looked at. The file must then stay as it is.

    Raises
    ------
    CheckpointError
        If it cannot be read, or is no checkpoint of this size.
    """
    expected = f"expected {what} in {path}"
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise CheckpointError(f"{expected}, but that is no file")
        with zipfile.ZipFile(path) as archive:
            # PyTorch packs nothing; what is packed could unpack to anything.
            packed = any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist())
            size = sum(member.file_size for member in archive.infolist())
        if packed or size > MAX_CHECKPOINT_BYTES:
            raise CheckpointError(f"{expected}, at most {MAX_CHECKPOINT_BYTES >> 20} MiB and not compressed, but it is otherwise")
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{expected}, but it cannot be read: {error.strerror or error}") from None
    except Exception as error:  # the unpickler raises anything, by what it meets
        raise CheckpointError(f"{expected}, but it cannot be read: {_problem(error)}") from None
    if not isinstance(state, dict):
        raise CheckpointError(f"{expected}, but there is none")
    return state


@contextmanager
def restoring(path: Path, what: str = "a checkpoint of this training") -> Iterator[dict[str, Any]]:
    """What a checkpoint holds, for a block that takes it over.

    Raises
    ------
    CheckpointError
        As `read_checkpoint`, and if something that the block asks for is missing or does not fit what it is put into.
    """
    state = read_checkpoint(path, what)
    try:
        step = state.get("step", 0)
        if type(step) is not int or step < 0:
            # Of lists in lists, each many times, the text would be larger than any memory.
            told = step if isinstance(step, (int, str)) else type(step).__name__
            raise CheckpointError(f"expected {what} in {path}, but its step is {str(told)[:40]!r}")
        yield state
    except CheckpointError:
        raise
    except KeyError as error:
        raise CheckpointError(f"expected {what} in {path}, but it lacks {str(error)[:100]}") from None
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"expected {what} in {path}, but it does not fit: {_problem(error)}") from None


def _problem(error: Exception) -> str:
    """The first thing that PyTorch says is wrong, of what may be a page."""
    lines = [line.strip() for line in str(error).splitlines()] or [type(error).__name__]
    # Of a module's state the first line says only that something does not fit.
    told = lines[1] if lines[0].startswith("Error(s) in loading") and len(lines) > 1 else lines[0]
    return told.split(". ")[0].rstrip(".")[:200]
