"""Recipes as programs, `python -m models...`: how they end, and the numbers that they take."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

FAILED, INTERRUPTED = 2, 130  # as plugin-bridge ends


def run(main: Callable[[], None]) -> None:
    """Run a program; what does not do, its files or what is asked of it, is told in one sentence."""
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except (ImportError, OSError, ValueError) as error:  # ImportError: the weights of Whisper are a package
        print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        sys.exit(FAILED)


def count(text: str) -> int:
    """For argparse: a whole number of at least 1."""
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {value}")
    return value


def time_limit(text: str) -> float:
    """For argparse: more than 0, of any unit."""
    if not (value := float(text)) > 0:
        raise argparse.ArgumentTypeError(f"expected more than 0, got {value:g}")
    return value
