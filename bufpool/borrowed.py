"""Finding the pool of a native handle, or of an address; pools that native code has opened, as SQLite's are."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from bufpool._native import ffi, lib
from bufpool.arguments import integer_argument
from bufpool.errors import BufpoolError
from bufpool.inspection import Findings
from bufpool.page import Location, Page
from bufpool.pool import Pool, key_of, pools

if TYPE_CHECKING:
    from bufpool._native import CData


class BorrowedPool(Pool):
    """A pool that native code has opened, such as SQLite's: to be looked at, not to be changed from here."""

    def __init__(self, handle: CData) -> None:
        self._refuse_second()
        self._adopt(handle)

    def _refuse(self, *_arguments: object, **_options: object) -> NoReturn:
        raise BufpoolError(
            f"{self.name!r} belongs to the native code that opened it, which alone may change or close it"
        )

    allocate = allocate_at = allocate_many = free = free_many = evict = evict_many = _refuse
    stage = publish = withdraw = unstage = replace = read_from = write_to = _refuse
    populate = populate_many = close = _close = __enter__ = _refuse

    def inspect(self, repair: bool = False) -> Findings:
        """As of any pool; the repair is not to be had."""
        return self._refuse() if repair else super().inspect()

    def _unclosed(self) -> bool:
        return False

    def _end(self) -> None:
        """Whoever has opened it closes it."""


def pool_of(handle: CData) -> Pool:
    """The Pool of a native handle; a BorrowedPool when Python did not open it."""
    return pools.get(key_of(handle)) or BorrowedPool(handle)


def locate(address: int) -> Location | None:
    """The page, of any pool of this process, in which an address lies, or None. Closed pools count."""
    address = integer_argument(address, "address")
    location = ffi.new("bufpool_location *", {"size": ffi.sizeof("bufpool_location")})
    if not 0 <= address < 2**64 or lib.bufpool_locate(ffi.cast("void *", address), location):
        return None
    return Location(Page(pool_of(location.pool), location.page), location.offset)
