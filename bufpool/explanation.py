"""explain(): over which page of a buffer a system call fell, for those who may not monitor them."""

from __future__ import annotations

from typing import Any

import attrs

from bufpool._native import ffi, lib
from bufpool.arguments import data_argument, integer_argument
from bufpool.errors import ArgumentError, failure
from bufpool.report import FAULT_SIZE, FaultReport, PageEvent, from_native

_MOST_PAGES = 64


@attrs.frozen(kw_only=True)
class StrayPage:
    """A page that is not accessible. str() is one line, and what is known of the page's history."""

    address: int  # of its first byte in the buffer
    pool: str  # the pool's name
    page: int
    offset: int  # of that byte, from the page's start
    state: str  # "unallocated", "freed", "evicted", "closed"
    allocated: PageEvent | None  # who allocated (or populated) it last; None: not recorded
    freed: PageEvent | None  # who freed or evicted it last, or closed the pool; None: not recorded

    def __str__(self) -> str:
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
    pages: tuple[StrayPage, ...]  # the first 64
    more: bool  # there are more than that

    def __str__(self) -> str:
        head = f"{self.readable} of {self.length} bytes from 0x{self.address:x} on are accessible, until"
        return "\n".join([head, *(str(page) for page in self.pages), *(["..."] if self.more else [])])


def explain(buffer: Any, length: int | None = None) -> Explanation | None:
    """The pages of a buffer, of whatever pools, that are not accessible; None: there are none.

    buffer: bytes-like, or an address with length in bytes. It is not touched. For a system call that has failed with
    EFAULT, or done less than it was asked to.
    """
    if length is not None:
        return _explain(integer_argument(buffer, "buffer"), integer_argument(length, "length"))
    if isinstance(buffer, int):
        raise ArgumentError("an address needs a length in bytes")
    with data_argument(buffer, "buffer") as memory:
        return _explain(int(ffi.cast("uintptr_t", memory)), ffi.sizeof(memory))


def _explain(address: int, length: int) -> Explanation | None:
    end = address + length
    if address < 0 or length < 0 or end >= 2**64:
        raise ArgumentError(f"address {address:#x} and length {length} must be 0 or more, and below 2**64 together")
    pages: list[StrayPage] = []
    more = False
    at = address
    while (report := _first_stray(at, end)) is not None:
        if len(pages) == _MOST_PAGES:
            more = True
            break
        pages.append(_page(report))
        at = report.address - report.offset + report.page_size
    if not pages:
        return None
    return Explanation(
        address=address, length=length, readable=pages[0].address - address, pages=tuple(pages), more=more
    )


def _first_stray(at: int, end: int) -> FaultReport | None:
    if at >= end:
        return None
    fault = ffi.new("bufpool_fault *", {"size": FAULT_SIZE})
    code = lib.bufpool_explain(ffi.cast("void *", at), end - at, fault)
    if code == lib.BUFPOOL_ESTRAY:
        return from_native(fault[0])
    if code:
        raise failure(code)
    return None


def _page(report: FaultReport) -> StrayPage:
    names = [field.name for field in attrs.fields(StrayPage)]
    return StrayPage(**{name: getattr(report, name) for name in names})
