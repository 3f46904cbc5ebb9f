"""Trainings of a user's voice that are over in seconds: the whole way to a pack, with the shipped networks, but small batches."""

import re
from pathlib import Path

import pytest

SMALL = {"batch": 2, "context_chunks": 8, "warm_chunks": 2, "chunks": 16, "frames": 40}


def use_small_recipes(patch: pytest.MonkeyPatch, folder: Path, **values: int) -> None:
    """Let both engines adapt with small batches of short crops, by recipes in `folder`; `values` go before `SMALL`."""
    import models.lhq.adapt
    import models.source_filter.adapt

    for number, module in enumerate((models.source_filter.adapt, models.lhq.adapt)):
        text = module.RECIPE.read_text()
        changed = 0
        for name, value in (SMALL | values).items():
            text, count = re.subn(rf"(?m)^{name} = \d+", f"{name} = {value}", text)
            changed += count
        assert changed
        path = folder / f"{number}.toml"
        path.write_text(text)
        patch.setattr(module, "RECIPE", path)
