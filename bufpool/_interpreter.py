"""Refuses to be imported into a subinterpreter, in words: cffi and numpy fail there in their own ways."""

from __future__ import annotations

import importlib
from typing import Any


def refuse_subinterpreters() -> None:
    """Raises ImportError unless this is the main interpreter."""
    for name in ("_interpreters", "_xxsubinterpreters"):
        try:
            interpreters = importlib.import_module(name)
        except ImportError:
            continue
        if _number(interpreters.get_current()) != _number(interpreters.get_main()):
            raise ImportError("bufpool does not work in subinterpreters; import it in the main interpreter")
        return


def _number(interpreter: Any) -> int:
    """The answer is an id, or since Python 3.13 a tuple that begins with it."""
    return int(interpreter[0] if isinstance(interpreter, tuple) else interpreter)
