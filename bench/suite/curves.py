"""The curves of cost against size: what each shows, and how its sizes are written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from suite import words


class Curve(NamedTuple):
    title: str
    size: str  # what the horizontal axis is
    cost: str  # what the vertical axis is
    written: Callable[[float], str]  # a size


CURVES = {
    "mapping alone": Curve(
        "One page by each mapping operation, alone", "pages in a call", "ns a page", "{:g}".format
    ),
    "mapping beside": Curve(
        "The same while a second thread runs on the other core", "pages in a call", "ns a page", "{:g}".format
    ),
    "open time": Curve("Opening and closing", "capacity", "ns", words.size),
    "open memory": Curve(
        "Private memory and page tables of an open pool, without frames", "capacity", "bytes", words.size
    ),
}  # fmt: skip


def series(rows: Iterable[Mapping[str, Any]], curve: str) -> dict[str, dict[float, Mapping[str, Any]]]:
    """The rows of a curve by the name of their series, then by size; both in the order of the run."""
    found: dict[str, dict[float, Mapping[str, Any]]] = {}
    for row in rows:
        point = row.get("point")
        if point and point["curve"] == curve:
            found.setdefault(point["series"], {})[point["x"]] = row
    return found
