"""What the JSON of packs and graphs has in common: strict, closed schemas of finite numbers and printable text."""

from __future__ import annotations

import errno
import re
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

# Names are typed on command lines and sent over OSC, hence lower case and no spaces.
NAME_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,31}$"
VoiceName = Annotated[str, Field(pattern=NAME_PATTERN)]

# No control characters: these strings reach terminals, where they could act.
MAX_LINE = 200
Line = Annotated[str, Field(max_length=MAX_LINE, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
Text = Annotated[str, Field(max_length=10_000, pattern=r"^[^\x00-\x08\x0b-\x1f\x7f-\x9f]*$")]

SampleRate = Annotated[int, Field(ge=8000, le=192_000)]


class Schema(BaseModel):
    """Base of every schema: no unknown keys, no coerced types, no NaN or infinity, immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def check_name(name: str) -> None:
    """ValueError, one sentence, unless `name` can be a voice's."""
    if not re.fullmatch(NAME_PATTERN, name):
        raise ValueError(f"expected a name of up to 32 lower-case letters, digits, - and _, got {name!r}")


def read_bounded(path: Path, most_bytes: int) -> bytes:
    """A file's contents. Raises OSError if it cannot be read, is larger, or is a pipe or device, which may never end."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is no file", str(path))
    with path.open("rb") as file:
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise OSError(errno.EFBIG, f"it has more than {most_bytes} bytes", str(path))
    return data


def first_problem(error: ValidationError) -> str:
    """The first finding of a failed validation as `where: what`, on one line, with what is not printable escaped.

    A key that is not known may be anything, and terminals act on some characters.
    """
    problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in problem["loc"])[:100]
    what = " ".join(problem["msg"].split()).removeprefix("Value error, ")[:300]
    sentence = f"{where}: {what}" if where else what
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in sentence)
