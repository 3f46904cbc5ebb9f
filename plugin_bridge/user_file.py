"""Small files that people write by hand or exchange: read whole, bounded, and checked against a schema."""

from __future__ import annotations

from codecs import BOM_UTF8
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from models.schema import Schema, first_problem

AnySchema = TypeVar("AnySchema", bound=Schema)


def read_bounded(path: Path, what: str, most_bytes: int, refused: type[ValueError]) -> bytes:
    """All of a file; `refused`, with a sentence that calls it `what`, if it cannot be read or is larger than allowed."""
    try:
        with path.open("rb") as file:
            data = file.read(most_bytes + 1)
    except OSError as error:
        raise refused(f"the {what} {path} cannot be read: {error.strerror or error}") from None
    if len(data) > most_bytes:
        raise refused(f"the {what} {path} must have at most {most_bytes} bytes")
    return data


def read_json(path: Path, schema: type[AnySchema], what: str, most_bytes: int, refused: type[ValueError]) -> AnySchema:
    """What a JSON file holds; `refused` as `read_bounded` does it, and if anything in it is not as the schema says."""
    data = read_bounded(path, what, most_bytes, refused).removeprefix(BOM_UTF8)  # with which Windows' editors begin a file
    try:
        return schema.model_validate_json(data)
    except ValidationError as error:
        raise refused(f"the {what} {path} is not valid: {first_problem(error)}") from None
