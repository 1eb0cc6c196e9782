"""How figures are written: what a row is about, its goal, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Row = Mapping[str, Any]


def duration(ns: float) -> str:
    """In the unit that leaves a handful of digits."""
    size = abs(ns)
    if size < 100:
        return f"{ns:.1f} ns"
    if size < 1e4:
        return f"{ns:.0f} ns"
    if size < 1e6:
        return f"{ns / 1e3:.1f} us"
    return f"{ns / 1e6:.1f} ms"


def size(count: float) -> str:
    """A number of bytes."""
    for unit, name in ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count:.3g} bytes"


def amount(row: Row, value: float) -> str:
    """One side's figure of this row."""
    return size(value) if row["unit"] == "bytes" else duration(value)


def _signed(ns: float) -> str:
    return ("+" if ns >= 0 else "") + duration(ns)


_FIGURES: dict[str, Callable[[float], str]] = {
    "ratio": "{:.3f}".format,
    "gain": "{:.3f}".format,
    "time": duration,
    "difference": _signed,
}


def figure(row: Row, value: float) -> str:
    """A value of this row, as its kind is written."""
    if row["kind"] in ("cost", "memory"):
        return amount(row, value)
    return _FIGURES[row["kind"]](value)


def goal(row: Row) -> str:
    """Empty if there is none. A gain's is a least, the others' are a most."""
    if row["goal"] is None:
        return ""
    value = f"{row['goal']:.2f}" if row["kind"] in ("ratio", "gain") else figure(row, row["goal"])
    return f"at {'least' if row['kind'] == 'gain' else 'most'} {value}"


def loses(row: Row) -> bool:
    """The goal is missed; or, where there is none, three rounds in four were slower than the other side's."""
    if row["met"] is not None:
        return not row["met"]
    return row["kind"] == "ratio" and row["spread"][0] > 1


def verdict(row: Row) -> str:
    if row["met"] is None:
        return "slower" if loses(row) else ""
    return "met" if row["met"] else "**missed**"


def quartiles(row: Row) -> str:
    low, _, high = row["spread"]
    return f"{figure(row, low)} to {figure(row, high)}"
