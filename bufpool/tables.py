"""The tables of a pool that several processes have, read from outside of them: native/src/tables.h has the layout.

Nothing is ever written, and nothing is mapped: a hole of the file stays a hole. The header is copied, then checked,
then used, as a process may write to the file at any time; what changes later can show a wrong number, and do no more
harm.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from bufpool.errors import BufpoolError

if TYPE_CHECKING:
    from typing_extensions import Self

MAGIC = 0x6C6F6F7066756201
VERSION = 4
# struct bp_constants; "checksum" is that of all before it.
CONSTANTS = np.dtype(
    [
        ("magic", "u8"),
        ("version", "u4"),
        ("size", "u4"),
        ("members", "u4"),
        ("member_size", "u4"),
        ("file_size", "u8"),
        ("capacity", "u8"),
        ("page_size", "u8"),
        ("granule", "u8"),
        ("base", "u8"),
        ("file", "u8", (2,)),
        ("pid_space", "u8"),
        ("flags", "u4"),
        ("pid", "i4"),
        ("name", "S64"),
        ("memory", "S64"),
        ("provenance", "u8", (2,)),
        ("rest", "u8"),
        ("checksum", "u8"),
    ]
)
# struct bp_stripe: what is counted is the sum over all stripes
STRIPE = np.dtype(
    [
        ("cursor", "u8"),
        ("set", "u8"),
        ("cleared", "u8"),
        ("evicted", "u8"),
        ("allocations", "u8"),
        ("frees", "u8"),
        ("evictions", "u8"),
        ("populates", "u8"),
    ]
)
STRIPES = 32
STRIPES_OFFSET = 64  # in struct bp_counts
# struct bp_counts, as far as it is read here
COUNTS = np.dtype(
    [
        ("cursor", "u8"),
        ("high_water", "u8"),
        ("last_member", "u4"),
        ("gone", "u1"),
        ("stale", "u1"),
        ("faults", "u8"),
        ("rests", "u8"),
        ("cut", "u8"),
        ("resting", "u8"),
    ],
    align=True,
)
COUNTS_OFFSET = 256  # in struct bp_header
# struct bp_member, up to what is read here
MEMBER = np.dtype([("present", "u4"), ("pid", "i4"), ("started", "u8"), ("name", "S16"), ("faults", "u8")])
# A state word.
STATES = ("unallocated", "allocated", "freed", "evicted")
STATE_MASK = 0x7
SCRATCH = 0x20
BUSY_SHIFT = 6

_OS_PAGE = 4096
_MEMBERS_MOST = 1023
_MEMBER_MOST = 65536  # bytes
_PAGES_MOST = 2**32
_PAGE_SIZE_MOST = 2**30
# What one census reads at most; of more it looks at samples, spread evenly.
_BYTES_MOST = 32 << 20
_EXTENTS_MOST = 4096
_SAMPLES = 2048  # of an OS page each
_NEAR = 1 << 16  # bytes of a hole that are read along, as zeros: cheaper than to begin anew
_CHUNK = 1 << 16  # pages


class TablesError(BufpoolError):
    """A file that says it has the tables of a pool, and cannot be used; the sentence says why."""


@attrs.frozen(kw_only=True)
class Facts:
    """What the header says of the pool, which never changes. Sizes are bytes."""

    name: str
    memory: str
    capacity: int
    page_size: int
    granule: int
    pages: int
    address: int  # in the process that opened it
    pid: int  # of that process, as it knows itself
    file: tuple[int, int]  # device and inode of the memory
    pid_space: int


@attrs.frozen(kw_only=True)
class Counts:
    """What is counted for all processes, read one by one and not as one snapshot."""

    allocated: int  # pages, now
    evicted: int  # pages, now
    high_water: int
    allocations: int  # pages, since open; the same for the next three
    frees: int
    evictions: int
    populates: int
    faults: int  # stray accesses of all processes, since open
    closed: bool  # by the process that opened the pool, so for all


@attrs.frozen(kw_only=True)
class Member:
    """A process that has the pool."""

    number: int
    pid: int  # as it knows itself
    name: str
    faults: int
    present: bool  # else it has left, and this is what it left in the table
    alive: bool  # else it was killed, and what it left is repaired by the next call that needs it
    started: int


@attrs.frozen(kw_only=True)
class Census:
    """The pages by state, counted at one time."""

    states: dict[str, int]  # pages
    busy: dict[int, int]  # pages that are being changed, by the number of the process
    scratched: int
    unknown: int  # state words that no version writes
    cells: np.ndarray[Any, np.dtype[np.int64]]  # of each cell the pages of each state, in the order of STATES, and busy
    end: int  # pages from 0 that the cells stand for
    exact: bool  # every page was looked at; else samples, and all numbers are estimates


@attrs.frozen
class Tables:
    """An open file of tables. Use as a context manager, or close()."""

    fd: int
    facts: Facts
    identity: tuple[int, int]  # device and inode of the file
    _members: int
    _member_size: int

    @classmethod
    def open(cls, path: str | Path) -> Self | None:
        """Opens and checks. None: a pool that is just being opened. Raises TablesError, OSError."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            raw = _read_constants(fd)
            if raw["magic"] == 0:
                os.close(fd)
                return None
            facts = _checked(fd, raw)
        except BaseException:
            os.close(fd)
            raise
        status = os.fstat(fd)
        return cls(fd, facts, (status.st_dev, status.st_ino), int(raw["members"]), int(raw["member_size"]))

    def close(self) -> None:
        """Once."""
        os.close(self.fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def counts(self) -> Counts:
        """What is counted."""
        raw = self._counts()
        stripes = np.frombuffer(_pread(self.fd, STRIPE.itemsize * STRIPES, COUNTS_OFFSET + STRIPES_OFFSET), STRIPE)
        sums = {name: int(np.add.reduce(stripes[name])) for name in STRIPE.names or ()}  # each may wrap
        values = {name: sums[name] for name in ("allocations", "frees", "evictions", "populates")}
        evicted = min(0 if sums["evicted"] >> 63 else sums["evicted"], self.facts.pages)
        allocated = values["allocations"] - values["frees"] - evicted
        return Counts(
            allocated=min(max(allocated, 0), self.facts.pages),
            evicted=evicted,
            high_water=min(int(raw["high_water"]), self.facts.pages),
            closed=bool(raw["gone"]),
            faults=int(raw["faults"]),
            **values,
        )

    def _counts(self) -> Any:
        return np.frombuffer(_pread(self.fd, COUNTS.itemsize, COUNTS_OFFSET), COUNTS)[0]

    def members(self) -> tuple[Member, ...]:
        """The processes that have the pool, and those that had it as far as the table still knows."""
        last = min(int(self._counts()["last_member"]), self._members)
        raw = np.frombuffer(_pread(self.fd, (last + 1) * self._member_size, _OS_PAGE), np.uint8).reshape(
            -1, self._member_size
        )
        table = np.ascontiguousarray(raw[:, : MEMBER.itemsize]).view(MEMBER)[:, 0]
        known = np.flatnonzero(table["pid"])
        return tuple(self._member(int(number), table[number]) for number in known if number > 0)

    def _member(self, number: int, raw: Any) -> Member:
        present = bool(raw["present"])
        return Member(
            number=number,
            pid=int(raw["pid"]),
            name=_text(raw["name"]),
            faults=int(raw["faults"]),
            present=present,
            alive=present and (self._is_locked(number) or self._is_running(int(raw["pid"]), int(raw["started"]))),
            started=int(raw["started"]),
        )

    def _is_locked(self, number: int) -> bool:
        """A member holds a lock on the byte of its number: native/src/roster.h."""
        lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, number, 1, 0)
        try:
            found = fcntl.fcntl(self.fd, fcntl.F_OFD_GETLK, lock)
        except OSError:
            return False
        return bool(struct.unpack("hhqqi4x", found)[0] != fcntl.F_UNLCK)

    def _is_running(self, pid: int, started: int) -> bool:
        return started != 0 and pid_space() == self.facts.pid_space and started_at(pid) == started

    def census(self, cells: int, end: int) -> Census:
        """Counts the pages by state, and for each of some cells that stand for the pages from 0 to end."""
        counter = _Counter(self.facts.pages, cells, end)
        extents = self._extents()
        if extents is None:
            for page, words in self._samples():
                counter.add(page, words)
        else:
            for start, stop in extents:
                for page in range(start, stop, _CHUNK):
                    counter.add(page, self._words(page, min(page + _CHUNK, stop)))
            counter.rest()
        return counter.result(exact=extents is not None)

    @property
    def _states_at(self) -> int:
        size = (self._members + 1) * self._member_size
        return _OS_PAGE + -(-size // _OS_PAGE) * _OS_PAGE

    def _extents(self) -> list[tuple[int, int]] | None:
        """The pages whose state was ever written, as far as the file shows; None: too many to look at each time."""
        found: list[tuple[int, int]] = []
        first = self._states_at
        at, end = first, first + self.facts.pages * 2
        for _ in range(_EXTENTS_MOST):
            try:
                start = max(os.lseek(self.fd, at, os.SEEK_DATA), first)
                at = os.lseek(self.fd, start, os.SEEK_HOLE)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                break  # only holes from here on
            if start >= end:
                break
            if found and start - found[-1][1] <= _NEAR:
                start = found.pop()[0]
            found.append((start, min(at, end)))
        else:
            return None
        if sum(stop - start for start, stop in found) > _BYTES_MOST:
            return None
        return [((start - first) // 2, (stop - first) // 2) for start, stop in found]

    def _samples(self) -> Iterator[tuple[int, np.ndarray[Any, Any]]]:
        """Windows of an OS page."""
        pages, size = self.facts.pages, _OS_PAGE // 2
        for n in range(_SAMPLES):
            page = pages * n // _SAMPLES
            yield page, self._words(page, min(page + size, pages))

    def _words(self, start: int, stop: int) -> np.ndarray[Any, Any]:
        return np.frombuffer(_pread(self.fd, (stop - start) * 2, self._states_at + start * 2), np.uint16)


class _Counter:
    """Counts state words, altogether and by cell."""

    def __init__(self, pages: int, cells: int, end: int) -> None:
        self.pages = pages
        self.seen = 0
        self.end = min(max(end, 1), pages)
        self.bounds = [self.end * n // cells for n in range(cells + 1)]
        self.cells = np.zeros((cells, len(STATES) + 1), np.int64)
        self.states = np.zeros(STATE_MASK + 1, np.int64)
        self.busy: dict[int, int] = {}
        self.scratched = 0

    def add(self, page: int, words: np.ndarray[Any, Any]) -> None:
        """The state words of the pages from page on."""
        self.seen += len(words)
        states = words & STATE_MASK
        busy = words >> BUSY_SHIFT
        if busy.any():
            numbers, times = np.unique(busy[busy != 0], return_counts=True)
            for number, count in zip(numbers.tolist(), times.tolist(), strict=True):
                self.busy[number] = self.busy.get(number, 0) + count
        self.scratched += int(np.count_nonzero(words & SCRATCH))
        stop = page + len(words)
        self.states += np.bincount(states, minlength=STATE_MASK + 1)
        cell = int(np.searchsorted(self.bounds, page, side="right")) - 1
        while page < stop and cell < len(self.cells):
            until = min(stop, self.bounds[cell + 1])
            part = slice(page - stop + len(words), until - stop + len(words))
            self.cells[cell, :-1] += np.bincount(states[part], minlength=STATE_MASK + 1)[: len(STATES)]
            self.cells[cell, -1] += int(np.count_nonzero(busy[part]))
            page, cell = until, cell + 1

    def rest(self) -> None:
        """All other pages were never touched."""
        self.states[0] += self.pages - self.seen
        self.seen = self.pages
        self.cells[:, 0] += np.diff(self.bounds) - self.cells[:, :-1].sum(axis=1)

    def result(self, *, exact: bool) -> Census:
        scale = self.pages / max(self.seen, 1)
        return Census(
            states={name: round(int(self.states[n]) * scale) for n, name in enumerate(STATES)},
            busy={number: round(count * scale) for number, count in self.busy.items()},
            scratched=round(self.scratched * scale),
            unknown=round(int(self.states[len(STATES) :].sum()) * scale),
            cells=self.cells,
            end=self.end,
            exact=exact,
        )


# ---- The header ------------------------------------------------------------------------------------------------------


def _read_constants(fd: int) -> Any:
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise TablesError("it is no regular file")
    raw = os.pread(fd, CONSTANTS.itemsize, 0)
    if len(raw) < CONSTANTS.itemsize:
        raise TablesError(f"it has {len(raw)} bytes, and its header takes {CONSTANTS.itemsize}")
    return np.frombuffer(raw, CONSTANTS)[0]


def _checked(fd: int, raw: Any) -> Facts:
    """Raises TablesError with a sentence that names the value."""
    if raw["magic"] != MAGIC:
        raise TablesError(f"it begins with {int(raw['magic']):#x}, not as the tables of a pool do")
    if raw["version"] != VERSION:
        raise TablesError(
            f"they have layout {int(raw['version'])}, and this version knows {VERSION}: take that process's bufpool"
        )
    if raw["checksum"] != checksum(raw.tobytes()):
        raise TablesError("their header is damaged: its checksum is wrong")
    least = COUNTS_OFFSET + STRIPES_OFFSET + STRIPES * STRIPE.itemsize
    _within("the header's size", raw["size"], least, _OS_PAGE)
    _within("the number of entries", raw["members"], 1, _MEMBERS_MOST)
    _within("the size of an entry", raw["member_size"], MEMBER.itemsize, _MEMBER_MOST)
    _within("the page size", raw["page_size"], _OS_PAGE, _PAGE_SIZE_MOST)
    pages, odd = divmod(int(raw["capacity"]), int(raw["page_size"]))
    _within("the number of pages", pages, 1, _PAGES_MOST)
    if odd:
        raise TablesError(f"a capacity of {int(raw['capacity'])} bytes is no whole number of pages")
    members = (int(raw["members"]) + 1) * int(raw["member_size"])
    least = _OS_PAGE + -(-members // _OS_PAGE) * _OS_PAGE + pages * 2
    _within("their length", raw["file_size"], least, 2**63 - 1)
    length = os.fstat(fd).st_size
    if length != int(raw["file_size"]):
        raise TablesError(f"the file has {length} bytes, and has to have {int(raw['file_size'])}")
    if not _is_sealed(fd):
        raise TablesError("their file is not sealed against changes of its size")
    return Facts(
        name=_text(raw["name"]),
        memory=_text(raw["memory"]),
        capacity=int(raw["capacity"]),
        page_size=int(raw["page_size"]),
        granule=int(raw["granule"]),
        pages=pages,
        address=int(raw["base"]),
        pid=int(raw["pid"]),
        file=(int(raw["file"][0]), int(raw["file"][1])),
        pid_space=int(raw["pid_space"]),
    )


def _within(what: str, value: Any, least: int, most: int) -> None:
    if not least <= int(value) <= most:
        raise TablesError(f"{what} is {int(value)}, and has to be from {least} to {most}")


def checksum(header: bytes) -> int:
    """Of struct bp_constants: FNV-1a."""
    value = 0xCBF29CE484222325
    for byte in header[: CONSTANTS.fields["checksum"][1]]:  # type: ignore[index]
        value = (value ^ byte) * 0x100000001B3 & (2**64 - 1)
    return value


def _is_sealed(fd: int) -> bool:
    wanted = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
    try:
        return fcntl.fcntl(fd, fcntl.F_GET_SEALS) & wanted == wanted
    except OSError:  # not a memfd
        return False


def _text(raw: bytes) -> str:
    """A terminal is not to be steered by what is in it."""
    text = raw.split(b"\0", 1)[0].decode("utf-8", "replace")
    return "".join(char if char.isprintable() else "?" for char in text)


def _pread(fd: int, size: int, at: int) -> bytes:
    """All of it: the file is sealed, so it cannot end before."""
    parts = []
    while size > 0:
        part = os.pread(fd, size, at)
        if not part:
            raise TablesError("the file ends too early")
        parts.append(part)
        size -= len(part)
        at += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


# ---- Processes -------------------------------------------------------------------------------------------------------


def pid_space() -> int:
    """The pid namespace of this process."""
    with contextlib.suppress(OSError):
        return Path("/proc/self/ns/pid").stat().st_ino
    return 0


def started_at(pid: int) -> int | None:
    """When a process was started, in ticks since boot; None if there is none, or it has ended."""
    try:
        line = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    match = re.fullmatch(rb"([^ZX]) (?:\S+ ){18}(\d+) .*", line.rpartition(b") ")[2], re.DOTALL)
    return int(match[2]) if match else None
