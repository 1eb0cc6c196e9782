"""Memoryviews of a pool's memory, which keep its addresses reserved for as long as they live."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bufpool._native import ffi, lib
from bufpool.errors import failure

if TYPE_CHECKING:
    from bufpool._native import CData


def view(pool: CData, address: int, size: int) -> memoryview:
    """A writable, zero-copy view. When the pool is closed the view traps; its address is never anybody else's."""
    code = lib.bufpool_keep(pool)
    if code:
        raise failure(code)
    # What is made from the view (slices, arrays) holds the view, the view holds the owner, the owner releases last.
    owner = ffi.gc(ffi.cast("char *", address), lambda _: lib.bufpool_release(pool))
    return memoryview(ffi.buffer(owner, size))
