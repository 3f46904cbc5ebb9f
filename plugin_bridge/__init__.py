"""Neural voice and singing conversion where an audio effect sits.

Everything a user needs is here: `VoiceConverter`, `Board`, `SongRenderer` and `voices`. Each is loaded when it is first used.
"""

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plugin_bridge.board import Board
    from plugin_bridge.converter import VoiceConverter
    from plugin_bridge.render import SongRenderer

__all__ = ["Board", "SongRenderer", "VoiceConverter", "voices"]


def _require_own_packages() -> None:
    """`dsp`, `models` and `presets` are common names: say at once, and clearly, when something else took one."""
    ours = Path(__file__).resolve().parent.parent
    for name in ("dsp", "models", "presets"):
        loaded = sys.modules.get(name)
        spec = loaded.__spec__ if loaded else importlib.util.find_spec(name)
        found = getattr(loaded, "__file__", None) or (spec.origin if spec else None)
        if found is None and spec is not None:
            # A folder without __init__.py.
            found = next(iter(spec.submodule_search_locations or ()), None)
        if found is None:
            raise ImportError(f"plugin_bridge needs its package {name!r} in {ours}, but it is missing; install it again")
        if Path(found).resolve().parent != ours / name:
            raise ImportError(
                f"plugin_bridge needs its package {name!r} in {ours}, but {found} shadows it; "
                "rename that, or start Python from another folder"
            )


_require_own_packages()

# Not lazy: the import system would put the module of the same name in the function's place at its first import.
# The module is light.
from plugin_bridge.voices import voices  # noqa: E402

_LAZY = {
    "VoiceConverter": "plugin_bridge.converter",
    "Board": "plugin_bridge.board",
    "SongRenderer": "plugin_bridge.render",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
