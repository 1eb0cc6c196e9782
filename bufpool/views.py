"""Memoryviews of a pool's memory, which keep its addresses reserved for as long as they live."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bufpool._native import ffi, lib
from bufpool.errors import failure

if TYPE_CHECKING:
    from bufpool._native import CData


def view(pool: CData, address: int, size: int, memory: object) -> memoryview:
    """A writable, zero-copy view. When the pool is closed the view traps; its address is never anybody else's.

    memory: what keeps the addresses mapped where they are not the library's; None: they are.
    """
    code = lib.bufpool_keep(pool)
    if code:
        raise failure(code)

    def release(_: CData, _kept: object = memory) -> None:
        lib.bufpool_release(pool)

    # What is made from the view (slices, arrays) holds the view, the view holds the owner, the owner releases last.
    owner = ffi.gc(ffi.cast("char *", address), release)
    return memoryview(ffi.buffer(owner, size))
