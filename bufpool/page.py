"""Page: one page of a pool, with guarded access and zero-copy views."""

from __future__ import annotations

import operator
import sys
from typing import TYPE_CHECKING, Any, SupportsIndex, overload

import attrs
import numpy as np

from bufpool._native import ffi, lib
from bufpool.arguments import data_argument, integer_argument, no_such_page
from bufpool.errors import ArgumentError, PageStateError, PoolClosedError, StrayAccessError
from bufpool.faults import POISON, call, catcher, check
from bufpool.pins import Pin, unpin

if TYPE_CHECKING:
    import numpy.typing as npt
    from typing_extensions import Buffer

    from bufpool.pool import Pool
    from bufpool.report import PageHistory
    from bufpool.views import Views

CLOSED = int(lib.BUFPOOL_STATE_CLOSED)
_state = lib.bufpool_py_state
_new_uncleared = ffi.new_allocator(should_clear_after_alloc=False)


@attrs.frozen(slots=True, repr=False)
class Page:
    """A page's number in its pool: a value, cheap to make, that says nothing about the page's state.

    page[i] and page[a:b] are guarded: an access to a page that is not accessible raises StrayAccessError right there.
    Views from buffer and array() are as fast as memory; see Pool for what a stray access through them does.
    """

    pool: Pool
    number: int

    def __attrs_post_init__(self) -> None:
        if type(self.number) is not int:
            object.__setattr__(self, "number", integer_argument(self.number, "number"))
        if not 0 <= self.number < self.pool.page_count:
            raise PageStateError(no_such_page(self.pool, self.number))

    def __repr__(self) -> str:
        return f"<Page {self.number} of {self.pool.name!r}, {self.state}>"

    @property
    def address(self) -> int:
        """The address of the first byte, the same for the pool's life."""
        return self.pool.address + self.number * (self.pool.page_size + self.pool.red_zone)

    @property
    def size(self) -> int:
        """Bytes."""
        return self.pool.page_size

    @property
    def state(self) -> str:
        """At this moment: "unallocated", "allocated", "freed", "evicted" or "closed"."""
        return self.pool.state(self.number)

    @property
    def history(self) -> PageHistory:
        """Who allocated and who freed the page last: see Pool.history()."""
        return self.pool.history(self)

    def free(self) -> None:
        """Takes the frame away and gives the number back: see Pool.free()."""
        self.pool.free(self)

    def evict(self) -> None:
        """Takes the frame away and keeps the number: see Pool.evict()."""
        self.pool.evict(self)

    def populate(self, data: Buffer | None = None) -> None:
        """Gives an evicted page a frame and its content again: see Pool.populate()."""
        self.pool.populate(self, data)

    def pin(self, write: bool = False) -> Pin:
        """Says that this thread uses the page, until unpin(), or to the end of a with block: with page.pin(): ...

        Pins count and nest; with Pool(pins="off") nothing happens. Raises PageStateError (not allocated; 32767 pins of
        that kind), PoolClosedError.
        """
        self.pool._call(lib.bufpool_py_pin, self.pool.native, self.number, bool(write))  # noqa: SLF001
        return Pin(self, bool(write))

    def unpin(self, write: bool | None = None) -> None:
        """Gives a pin back: of that kind, or, None, a read pin if there is one, else a write pin.

        Raises PageStateError (no such pin), PoolClosedError.
        """
        unpin(self.pool, self.number, write)
        check()

    @property
    def buffer(self) -> memoryview:
        """A writable view of the page's memory, without a copy. Raises PoolClosedError."""
        return views_of(self.pool).view(self.number)

    def array(self, dtype: npt.DTypeLike = np.uint8) -> npt.NDArray[Any]:
        """The page's memory as a one-dimensional array, without a copy. dtype's size must divide the page's.

        Raises ArgumentError, PoolClosedError.
        """
        array: npt.NDArray[Any] = views_of(self.pool).array(dtype)[self.number]
        return array

    def __len__(self) -> int:
        return self.size

    @overload
    def __getitem__(self, index: SupportsIndex) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> bytes: ...
    def __getitem__(self, index: SupportsIndex | slice) -> int | bytes:
        """One byte, or the bytes of a slice. Raises StrayAccessError, IndexError."""
        if isinstance(index, slice):
            start, size, step = self._span(index)
            data = self._read(start, size, place())
            return data[::step] if step > 0 else data[::-1][::-step]
        address = self._first() + self._offset(index)
        try:
            return call(lib.bufpool_py_get, place(), address)
        except StrayAccessError as error:
            return _caught(error, 1)[0]

    def __setitem__(self, index: SupportsIndex | slice, value: SupportsIndex | Buffer) -> None:
        """Sets one byte, or a slice of step 1 to as many bytes. Raises StrayAccessError, IndexError, ArgumentError."""
        if isinstance(index, slice):
            start, size, step = self._span(index)
        else:
            start, size, step = self._offset(index), 1, 1
            value = bytes([_byte(value)])
        with data_argument(value) as data:
            if step != 1:
                raise ArgumentError(f"only slices of step 1 can be set, not of step {step}")
            if ffi.sizeof(data) != size:
                raise ArgumentError(f"the slice has {size} bytes, the data {ffi.sizeof(data)}")
            try:
                call(lib.bufpool_py_write, place(), self._first() + start, data, size)
            except StrayAccessError as error:
                _caught(error, 0)

    def __bytes__(self) -> bytes:
        return self._read(0, self.size, place())

    def _read(self, start: int, size: int, where: int) -> bytes:
        if size == 0:
            return b""
        memory = _new_uncleared("char[]", size)
        try:
            call(lib.bufpool_py_read, where, memory, self._first() + start, size)
        except StrayAccessError as error:
            return _caught(error, size)
        return bytes(ffi.buffer(memory, size))

    def _first(self) -> int:
        """Where a guarded access begins: never in memory that the pool has given back."""
        if self.pool._given_back():  # noqa: SLF001
            raise PoolClosedError(f"pool {self.pool.name!r} has been closed: its memory is the program's again")
        return self.address

    def _offset(self, index: SupportsIndex) -> int:
        try:
            offset = operator.index(index)
        except TypeError:
            raise TypeError(f"page indices are integers or slices, not {type(index).__name__}") from None
        if not -self.size <= offset < self.size:
            raise IndexError(f"offset {offset} is not in a page of {self.size} bytes")
        return offset % self.size

    def _span(self, index: slice) -> tuple[int, int, int]:
        """The lowest offset and the number of bytes that the slice spans, and its step."""
        offsets = range(self.size)[index]
        if not offsets:
            return 0, 0, offsets.step
        low, high = sorted((offsets[0], offsets[-1]))
        return low, high - low + 1, offsets.step


_new = object.__new__
_set_pool, _set_number = vars(Page)["pool"].__set__, vars(Page)["number"].__set__  # of the slots


def page_of(pool: Pool, number: int) -> Page:
    """The Page of a number that is known to be one of the pool's: made in half the time."""
    page = _new(Page)
    _set_pool(page, pool)
    _set_number(page, number)
    return page


def views_of(pool: Pool) -> Views:
    """The views of an open pool. Raises PoolClosedError."""
    views = pool._views  # noqa: SLF001
    if views is None or _state(pool.native, 0) == CLOSED:
        raise PoolClosedError(f"pool {pool.name!r} has been closed: its pages have no memory to view")
    return views


_places: dict[int, int] = {}  # of instructions; what a line is takes longer to find out


def place() -> int:
    """Tells the Python line that makes a guarded access from others, for report_limit."""
    try:
        frame = sys._getframe(2)  # not by f_back: that would make an object of the frame between
    except ValueError:  # C makes the access, with no Python around it
        return 0
    instruction = id(frame.f_code) * 8191 + frame.f_lasti
    found = _places.get(instruction)
    if found is None:
        if len(_places) > 100_000:  # of code that has come and gone
            _places.clear()
        found = _places[instruction] = hash((id(frame.f_code), frame.f_lineno)) % 2**30
    return found


def _caught(error: StrayAccessError, size: int) -> bytes:
    """Inside catch_faults() the access completes on the pattern; elsewhere it raises."""
    catching = catcher()
    if catching is None:
        raise error
    catching.add(error.report)
    return POISON * size


def _byte(value: Any) -> int:
    try:
        byte = operator.index(value)
    except TypeError:
        raise TypeError(f"a byte of a page is an integer, not {type(value).__name__}") from None
    if not 0 <= byte <= 255:
        raise ArgumentError(f"a byte of a page is 0 to 255, not {byte}")
    return byte


@attrs.frozen(slots=True)
class Location:
    """The page and the offset in bytes at which an address lies."""

    page: Page
    offset: int
