"""Looking at many pages in one call of C: their states, and copies of them by guarded access."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bufpool._native import ffi, lib
from bufpool.errors import ArgumentError, StrayAccessError, failure
from bufpool.faults import POISON, call, catcher

if TYPE_CHECKING:
    import numpy.typing as npt

    from bufpool.pool import Pool

STATES = tuple(ffi.string(lib.bufpool_state_name(state)).decode() for state in range(lib.BUFPOOL_STATE_CLOSED + 1))
_NAMES = np.array(STATES)


def states(pool: Pool, numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.str_]:
    """The state of each page."""
    found = np.empty(len(numbers), np.uint8)
    pages, out = ffi.from_buffer("uint64_t[]", numbers), ffi.from_buffer("uint8_t[]", found)
    code = lib.bufpool_py_states(pool.native, len(numbers), pages, out)
    if code:
        raise failure(code)
    names: npt.NDArray[np.str_] = _NAMES[found]
    return names


def read(pool: Pool, numbers: npt.NDArray[np.uint64], out: Any, where: int) -> npt.NDArray[Any]:
    """Copies pages to out, or to a new array; where tells the Python line for report_limit."""
    count, size = len(numbers), pool.page_size
    room: npt.NDArray[Any] = np.empty((count, size), np.uint8) if out is None else _fitting(out, count * size)
    with ffi.from_buffer("char[]", room, require_writable=True) as to:
        pages, done = ffi.from_buffer("uint64_t[]", numbers), ffi.new("size_t *")
        while done[0] < count:
            try:
                call(lib.bufpool_py_read_many, pool.native, where, size, count, pages, to, done)
            except StrayAccessError as error:
                catching = catcher()
                if catching is None:
                    raise
                catching.add(error.report)
                ffi.memmove(to + done[0] * size, POISON * size, size)
                done[0] += 1
    return room


def _fitting(out: Any, size: int) -> npt.NDArray[Any]:
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be an array, not {type(out).__name__}")
    if not (out.flags.writeable and out.flags.c_contiguous):
        raise ArgumentError("out must be writable, and lie in one piece of memory in the order of C")
    if out.dtype.hasobject:
        raise ArgumentError(f"out is of dtype {out.dtype}, which holds Python objects: it has to hold plain bytes")
    if out.nbytes != size:
        raise ArgumentError(f"out must have {size} bytes, as many as the pages have together, not {out.nbytes}")
    return out
