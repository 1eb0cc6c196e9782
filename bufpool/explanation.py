"""explain(): over which page of a buffer a system call fell, for those who may not monitor them."""

from __future__ import annotations

from typing import Any

import attrs

from bufpool._native import ffi, lib
from bufpool.arguments import data_argument, integer_argument
from bufpool.errors import ArgumentError, failure
from bufpool.report import FAULT_SIZE, FaultReport, PageEvent, from_native

_MOST_PAGES = 64
_PATTERNS = {
    "fresh": f"{lib.BUFPOOL_FRESH:#x}: fresh, not written since they were allocated",
    "scrubbed": f"{lib.BUFPOOL_SCRUBBED:#x}: scrubbed, of a frame that was taken away",
    "poison": f"{lib.BUFPOOL_POISON:#x}: poison, of the scratch page of a stray access",
}


@attrs.frozen(kw_only=True)
class StrayPage:
    """A page that is not accessible. str() is one line, and what is known of the page's history."""

    address: int  # of its first byte in the buffer
    pool: str  # the pool's name
    page: int
    offset: int  # of that byte, from the page's start
    # "unallocated", "freed", "evicted", "closed", "unpinned", "read-only"; "red-zone": beside the page, at this offset
    state: str
    allocated: PageEvent | None  # who allocated (or populated) it last; None: not recorded
    freed: PageEvent | None  # who freed or evicted it last, or closed the pool; None: not recorded

    def __str__(self) -> str:
        if self.state == "red-zone":
            return f'0x{self.address:x}: red zone beside page {self.page} of pool "{self.pool}"; offset {self.offset}'
        line = f'0x{self.address:x}: page {self.page} of pool "{self.pool}" is {self.state}; offset {self.offset}'
        return "\n".join([line, *(f"  {event}" for event in (self.freed, self.allocated) if event)])


@attrs.frozen(kw_only=True)
class Explanation:
    """The pages of a buffer that are not accessible, at this moment, in rising order. str() has lines for each.

    readable is the number of bytes before the first of them: as a rule what a system call managed to do.
    """

    address: int  # of the buffer
    length: int  # bytes
    readable: int
    pages: tuple[StrayPage, ...]  # the first 64; none: pattern says what there is to say
    more: bool  # there are more than that
    # what all the bytes are that are accessible up to the first of them: "fresh" (allocated, and not written since),
    # "scrubbed" or "poison"; None: no pattern
    pattern: str | None = None

    def __str__(self) -> str:
        head = f"{self.readable} of {self.length} bytes from 0x{self.address:x} on are accessible"
        head += f", all of them {_PATTERNS[self.pattern]}" if self.pattern else ""
        head += ", until" if self.pages else ""
        return "\n".join([head, *(str(page) for page in self.pages), *(["..."] if self.more else [])])


def explain(buffer: Any, length: int | None = None, *, write: bool = False) -> Explanation | None:
    """The pages of a buffer, of whatever pools, that are not accessible; None: there are none, and no fill pattern.

    buffer: bytes-like, or an address with length in bytes. Only what is accessible is read. For a system call that has
    failed with EFAULT, or done less than it was asked to; write: one that writes to the buffer, as os.readv() does, to
    which read-only pages are closed, too.
    """
    if length is not None:
        return _explain(integer_argument(buffer, "buffer"), integer_argument(length, "length"), write)
    if isinstance(buffer, int):
        raise ArgumentError("an address needs a length in bytes")
    with data_argument(buffer, "buffer") as memory:
        return _explain(int(ffi.cast("uintptr_t", memory)), ffi.sizeof(memory), write)


def _explain(address: int, length: int, write: bool) -> Explanation | None:
    end = address + length
    if address < 0 or length < 0 or end >= 2**64:
        raise ArgumentError(f"address {address:#x} and length {length} must be 0 or more, and below 2**64 together")
    pages: list[StrayPage] = []
    more = False
    at = address
    while (report := _first_stray(at, end, write)) is not None:
        if len(pages) == _MOST_PAGES:
            more = True
            break
        pages.append(_page(report))
        at = _after(report)
    readable = pages[0].address - address if pages else length
    pattern = _pattern(address, readable)
    if not pages and pattern is None:
        return None
    return Explanation(
        address=address, length=length, readable=readable, pages=tuple(pages), more=more, pattern=pattern
    )


def _pattern(address: int, length: int) -> str | None:
    """Of bytes in a pool; elsewhere they mean nothing."""
    at = ffi.cast("void *", address)
    if length == 0 or lib.bufpool_locate(at, ffi.new("bufpool_location *", {"size": ffi.sizeof("bufpool_location")})):
        return None
    return ffi.string(lib.bufpool_pattern(at, length)).decode() or None


def _first_stray(at: int, end: int, write: bool) -> FaultReport | None:
    if at >= end:
        return None
    fault = ffi.new("bufpool_fault *", {"size": FAULT_SIZE})
    code = lib.bufpool_explain_for(ffi.cast("void *", at), end - at, bool(write), fault)
    if code == lib.BUFPOOL_ESTRAY:
        return from_native(fault[0])
    if code:
        raise failure(code)
    return None


def _after(report: FaultReport) -> int:
    """Where there may be something else to say: behind the page, or the red zone."""
    start = report.address - report.offset
    if report.offset < 0:
        return start
    return start + report.page_size + (report.red_zone if report.offset >= report.page_size else 0)


def _page(report: FaultReport) -> StrayPage:
    names = [field.name for field in attrs.fields(StrayPage)]
    return StrayPage(**{name: getattr(report, name) for name in names})
