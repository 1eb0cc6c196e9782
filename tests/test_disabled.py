"""Every call of the public headers is in disabled.h, too; that it compiles and runs is native/tests/disabled."""

from __future__ import annotations

import re

from conftest import NATIVE

HEADERS = NATIVE / "include/bufpool"


def code(name: str) -> str:
    """A header without its comments."""
    return re.sub(r"/\*.*?\*/", "", (HEADERS / name).read_text(encoding="utf-8"), flags=re.DOTALL)


def declared() -> set[str]:
    text = code("bufpool.h") + code("optimistic.h")
    return set(re.findall(r"^BUFPOOL_API\b[^;(]*?\b(bufpool_\w+)\(", text, flags=re.MULTILINE))


def test_every_function_has_its_line() -> None:
    names = declared()
    assert {"bufpool_open", "bufpool_strerror", "bufpool_address", "bufpool_pin_many"} <= names
    text = code("disabled.h") + code("optimistic.h").partition("#ifdef BUFPOOL_DISABLED")[2]
    found = set(re.findall(r"\b(?:BUFPOOL_OFF\([^,]+, |BUFPOOL_NONE\(|BUFPOOL_API \w+ \*?)(bufpool_\w+)", text))
    assert names <= found
    assert found - names <= {"bufpool_off_text"}
