"""Sizes as people write them: 4096, "64 MB", "1 GiB"."""

from __future__ import annotations

import operator
import re
from fractions import Fraction
from typing import SupportsIndex

from bufpool.errors import ArgumentError

Size = int | SupportsIndex | str

_UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_TEXT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", re.ASCII)
_LIMIT = 2**64


def parse(value: Size, what: str = "size", limits: str = "at least 1 byte and below 2**64 bytes") -> int:
    """The size in bytes; kB, MB, GB, TB are powers of 1000, KiB, MiB, GiB, TiB powers of 1024.

    limits says what the caller accepts; only what is no size at all is refused here.

    Raises ArgumentError, which names the value, and TypeError for what is neither an integer nor text.
    """
    size = _from_text(value, what) if isinstance(value, str) else _from_integer(value, what)
    if not 0 < size < _LIMIT:
        raise ArgumentError(f"{what} {value!r} must be {limits}")
    return size


def _from_integer(value: SupportsIndex, what: str) -> int:
    if isinstance(value, bool):
        raise TypeError(f'{what} must be bytes as an integer, or text such as "1 GiB", not {value!r}')
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(
            f'{what} must be bytes as an integer, or text such as "1 GiB", not {value!r} ({type(value).__name__})'
        ) from None


def _from_text(value: str, what: str) -> int:
    match = _TEXT.fullmatch(value)
    unit = _UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise ArgumentError(
            f"{what} {value!r} is not a size: write a number and one of B, kB, MB, GB, TB, KiB, MiB, GiB, TiB"
        )
    size = Fraction(match[1]) * unit
    if size.denominator != 1:
        raise ArgumentError(f"{what} {value!r} is not a whole number of bytes")
    return int(size)


def text(size: int) -> str:
    """The shortest exact text of a size in bytes, in powers of 1024: 1536 is "1.5 KiB", 1000 is "1000 B"."""
    for unit, scale in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= scale and size * 4 % scale == 0:
            return f"{size / scale:g} {unit}"
    return f"{size} B"
