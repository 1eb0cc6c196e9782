"""The names of all pools of a process, read from its memory: those, too, that nothing outside of it has a part in.

The library says itself where its fields are (native/src/postmortem.h, which is made for debuggers). It takes the right
to read the process's memory. Everything is checked before it is used, and every loop ends.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import attrs

from bufpool import sizes
from bufpool.report_text import clean

MAGIC = b"bufpool layout\0\0"
VERSION = 3
_HEAD = struct.Struct("=16sII16sQ")  # struct bp_postmortem up to the pools
_FIELDS_AT = 56
_FIELD = struct.Struct("=24sII")
_FIELDS_MOST = 1024
_POOLS_MOST = 1024
_PART_MOST = 16 << 20  # bytes of a module's data that are searched
_ALL_MOST = 256 << 20  # bytes of all of them
# Of mapped files the writable parts, and which have code: others are data, of whatever size.
_MAPPING = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) rw-p [0-9a-f]+ (\S+ [1-9]\d*)\s+/", re.MULTILINE)
_CODE = re.compile(r"^[0-9a-f]+-[0-9a-f]+ r-xp [0-9a-f]+ (\S+ [1-9]\d*)\s+/", re.MULTILINE)


@attrs.frozen(kw_only=True)
class AnyPool:
    """A pool of a process, as it knows it itself."""

    name: str
    memory: str
    capacity: int  # bytes

    @property
    def private(self) -> bool:
        """Of memory that no other process can have."""
        return self.memory in ("anon", "thp", "adopted anon")

    def __str__(self) -> str:
        return f'"{self.name}" ({self.memory}, {sizes.text(self.capacity)})'


def private_of(pid: int) -> tuple[AnyPool, ...]:
    """The open pools of a process that nobody but itself can look at."""
    return tuple(pool for pool in pools_of(pid) if pool.private)


def pools_of(pid: int) -> tuple[AnyPool, ...]:
    """The open pools of a process; what cannot be read is left out."""
    try:
        maps = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace")
        fd = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ()
    try:
        return tuple(pool for layout in _layouts(fd, maps) for pool in _pools(fd, *layout))
    finally:
        os.close(fd)


def _read(fd: int, address: int, size: int) -> bytes:
    """All of it, or nothing."""
    try:
        found = os.pread(fd, size, address)
    except (OSError, OverflowError):
        return b""
    return found if len(found) == size else b""


Fields = dict[str, tuple[int, int]]


def _layouts(fd: int, maps: str) -> Iterator[tuple[int, Fields]]:
    """Of each copy of the library the first pool's address, and where its fields are."""
    left = _ALL_MOST
    modules = set(_CODE.findall(maps))
    for start, end in ((int(a, 16), int(b, 16)) for a, b, file in _MAPPING.findall(maps) if file in modules):
        data = _read(fd, start, min(end - start, _PART_MOST, left))
        left -= len(data)
        at = data.find(MAGIC)
        while at >= 0:
            if len(data) - at >= _FIELDS_AT:
                _, version, size, _, first = _HEAD.unpack_from(data, at)
                raw = data[at + _FIELDS_AT : at + min(size, _FIELDS_AT + _FIELDS_MOST * _FIELD.size)]
                raw = raw[: len(raw) // _FIELD.size * _FIELD.size]
                if version == VERSION:
                    fields = _FIELD.iter_unpack(raw)
                    yield (
                        first,
                        {name.rstrip(b"\0").decode("latin-1"): (offset, length) for name, offset, length in fields},
                    )
            at = data.find(MAGIC, at + 1)


def _pools(fd: int, address: int, fields: Fields) -> Iterator[AnyPool]:
    wanted = [fields.get(f"pool.{name}") for name in ("next", "first", "capacity", "name", "memory", "closed")]
    places = [place for place in wanted if place is not None]
    if len(places) < len(wanted) or any(size == 0 or offset + size > 1 << 20 for offset, size in places):
        return
    seen: set[int] = set()
    while address and address not in seen and len(seen) < _POOLS_MOST:
        seen.add(address)
        raw = [_read(fd, address + offset, min(size, 256)) for offset, size in places]
        if not all(raw):
            return
        following, base, capacity, name, memory, closed = raw
        if any(base) and not any(closed):
            yield AnyPool(name=_text(name), memory=_text(memory), capacity=int.from_bytes(capacity[:8], "little"))
        address = int.from_bytes(following[:8], "little")


def _text(raw: bytes) -> str:
    return clean(raw.split(b"\0", 1)[0].decode("utf-8", "replace"))
