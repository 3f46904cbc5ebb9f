"""What the JSON of packs and graphs has in common: strict, closed schemas of finite numbers and printable text."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

# Names are typed on command lines and sent over OSC, hence lower case and no spaces.
NAME_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,31}$"
VoiceName = Annotated[str, Field(pattern=NAME_PATTERN)]

# No control characters: these strings reach terminals, where they could act.
Line = Annotated[str, Field(max_length=200, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
Text = Annotated[str, Field(max_length=10_000, pattern=r"^[^\x00-\x08\x0b-\x1f\x7f-\x9f]*$")]

SampleRate = Annotated[int, Field(ge=8000, le=192_000)]


class Schema(BaseModel):
    """Base of every schema: no unknown keys, no coerced types, no NaN or infinity, immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def check_name(name: str) -> None:
    """ValueError, one sentence, unless `name` can be a voice's."""
    if not re.fullmatch(NAME_PATTERN, name):
        raise ValueError(f"expected a name of up to 32 lower-case letters, digits, - and _, got {name!r}")


def first_problem(error: ValidationError) -> str:
    """The first finding of a failed validation as `where: what`, on one line."""
    problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in problem["loc"])[:100]
    what = " ".join(problem["msg"].split()).removeprefix("Value error, ")[:300]
    return f"{where}: {what}" if where else what
