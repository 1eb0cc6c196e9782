"""Views of a pool's memory, which keep its addresses reserved for as long as they live.

Of each pool there is one view of all its pages, and one array for each dtype that was asked for. Those of single pages
are cut from them: numpy and memoryview do that in a tenth of the time that it takes to make them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bufpool._native import ffi, lib
from bufpool.errors import ArgumentError, failure

if TYPE_CHECKING:
    import numpy.typing as npt

    from bufpool._native import CData

_KEPT_ARRAYS = 64


class Views:
    """The memory of a pool's pages. When the pool is closed its views trap; their addresses are never anybody else's.

    memory: what keeps the addresses mapped where they are not the library's; None: they are.
    """

    __slots__ = ("_arrays", "_pages", "_size", "_step", "_whole")

    def __init__(self, pool: CData, address: int, *, pages: int, size: int, red_zone: int, memory: object) -> None:
        code = lib.bufpool_keep(pool)
        if code:
            raise failure(code)

        def release(_: CData, _kept: object = memory) -> None:
            lib.bufpool_release(pool)

        # What is cut from the view (slices, arrays) holds the view, the view holds the owner, the owner releases last.
        owner = ffi.gc(ffi.cast("char *", address), release)
        self._pages, self._size, self._step = pages, size, size + red_zone
        self._whole = memoryview(ffi.buffer(owner, pages * self._step - red_zone))
        self._arrays: dict[object, npt.NDArray[Any]] = {}

    def view(self, number: int) -> memoryview:
        """A writable, zero-copy view of one page."""
        start = number * self._step
        return self._whole[start : start + self._size]

    def array(self, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """All pages, one a row. Raises ArgumentError."""
        try:
            found = self._arrays[dtype]
        except (KeyError, TypeError):  # TypeError: a list, which has no hash
            return self._new_array(dtype)
        # Types are equal that differ in their metadata.
        return found if found.dtype is dtype or not isinstance(dtype, np.dtype) else self._new_array(dtype)

    def _new_array(self, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        kind = np.dtype(dtype)
        if kind.hasobject:
            raise ArgumentError(f"dtype {kind} holds Python objects, which do not fit into plain memory")
        if kind.itemsize == 0 or self._size % kind.itemsize:
            raise ArgumentError(f"dtype {kind} of {kind.itemsize} bytes does not divide a page of {self._size} bytes")
        shape, strides = (self._pages, self._size // kind.itemsize), (self._step, kind.itemsize)
        array: npt.NDArray[Any] = np.ndarray(shape, kind, self._whole, 0, strides)
        if isinstance(dtype, (np.dtype, str)) or (isinstance(dtype, type) and issubclass(dtype, np.generic)):
            if len(self._arrays) >= _KEPT_ARRAYS:
                self._arrays.clear()
            self._arrays[dtype] = array
        return array
