"""Frames: private memory that the program fills before it is a page, or gets with a page's content."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

import attrs
import numpy as np

from bufpool._native import ffi, lib
from bufpool.arguments import NumbersLike, PageLike, count_argument, page_number
from bufpool.errors import ArgumentError, PoolClosedError

if TYPE_CHECKING:
    import numpy.typing as npt

    from bufpool.pool import Pool


@attrs.frozen(slots=True, repr=False)
class Frame:
    """One frame: a page's size of private memory, aligned to the granule. See Pool.stage()."""

    pool: Pool
    address: int

    def __repr__(self) -> str:
        return f"<Frame at {self.address:#x} of {self.pool.name!r}>"

    @property
    def size(self) -> int:
        """Bytes."""
        return self.pool.page_size

    def __len__(self) -> int:
        return self.size

    @property
    def buffer(self) -> memoryview:
        """A writable view of the frame's memory, without a copy.

        When the frame is published, or given back, its views are released: to use one raises ValueError then. While an
        array or a slice is made of it that is refused (BufferError). Raises PoolClosedError, ArgumentError (not
        staged).
        """
        return self.pool._frame_views.view(self.address)  # noqa: SLF001

    def array(self, dtype: npt.DTypeLike = np.uint8) -> npt.NDArray[Any]:
        """The memory as a one-dimensional array, without a copy. dtype's size must divide the frame's."""
        kind = np.dtype(dtype)
        if kind.hasobject:
            raise ArgumentError(f"dtype {kind} holds Python objects, which do not fit into plain memory")
        if kind.itemsize == 0 or self.size % kind.itemsize:
            raise ArgumentError(f"dtype {kind} of {kind.itemsize} bytes does not divide a frame of {self.size} bytes")
        return np.frombuffer(self.buffer, kind)


class Frames(Sequence[Frame]):
    """Frames of one pool, in order: as a sequence, or as an array of their addresses."""

    __slots__ = ("addresses", "pool")

    def __init__(self, pool: Pool, addresses: npt.NDArray[np.uint64]) -> None:
        """addresses are those of staged frames."""
        self.pool = pool
        self.addresses = addresses

    def __repr__(self) -> str:
        return f"<{len(self)} Frames of {self.pool.name!r}>"

    def __len__(self) -> int:
        return len(self.addresses)

    @overload
    def __getitem__(self, index: int) -> Frame: ...
    @overload
    def __getitem__(self, index: slice) -> Frames: ...
    def __getitem__(self, index: int | slice) -> Frame | Frames:
        """One frame, or those of a slice."""
        if isinstance(index, slice):
            return Frames(self.pool, self.addresses[index])
        return Frame(self.pool, int(self.addresses[index]))

    def __iter__(self) -> Iterator[Frame]:
        return (Frame(self.pool, address) for address in self.addresses.tolist())


FramesLike = Frames | Iterable[Frame]


class FrameViews:
    """Which views of frames of one pool are alive: memory that is used up must not be touched through them."""

    def __init__(self, pool: Pool) -> None:
        """None are, as yet."""
        self._pool = weakref.ref(pool)
        self._alive: dict[int, list[tuple[weakref.ref[memoryview], weakref.ref[Any]]]] = {}
        self._staged: set[int] = set()
        self._pid = os.getpid()

    def add(self, addresses: npt.NDArray[np.uint64]) -> None:
        """They are staged."""
        self._forget_parent()
        self._staged.update(addresses.tolist())

    def view(self, address: int) -> memoryview:
        """A new one."""
        pool = self._pool()
        if pool is None or pool.closed:
            raise PoolClosedError("the pool of this frame has been closed")
        self._forget_parent()
        if address not in self._staged:
            raise ArgumentError(
                f"the frame at {address:#x} is not staged here: it was published or given back, or a fork came between"
            )
        owner = ffi.gc(ffi.cast("char *", address), _nothing)  # lives as long as a view, a slice or an array of it
        made = memoryview(ffi.buffer(owner, pool.page_size))
        alive = [pair for pair in self._alive.get(address, ()) if pair[1]() is not None]
        self._alive[address] = [*alive, (weakref.ref(made), weakref.ref(owner))]
        return made

    def _forget_parent(self) -> None:
        """A forked child has not got the frames of before."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._staged.clear()
            self._alive.clear()

    def release(self, addresses: Iterable[int], what: str) -> None:
        """Ends the views of these frames. Raises BufferError if an array or a slice of one is alive."""
        self._forget_parent()
        for address in [address for address in addresses if address in self._alive]:
            for made, owner in self._alive[address]:
                view = made()
                try:
                    if view is not None:
                        view.release()
                except BufferError:
                    pass
                del view
                if owner() is not None:
                    raise BufferError(
                        f"cannot {what} the frame at {address:#x}: an array or a slice of its buffer is in use; "
                        "delete it first"
                    )
            del self._alive[address]

    def release_all(self, what: str) -> None:
        """The same for every frame."""
        self.release(list(self._alive), what)

    def gone(self, addresses: Iterable[int]) -> None:
        """They are not staged any more."""
        self._staged.difference_update(addresses)


def _nothing(_: Any) -> None:
    pass


def _addresses(pool: Pool, frames: FramesLike) -> npt.NDArray[np.uint64]:
    if isinstance(frames, Frames):
        if frames.pool is not pool:
            raise ArgumentError(f"the frames are of pool {frames.pool.name!r}, not of {pool.name!r}")
        return np.ascontiguousarray(frames.addresses, np.uint64)
    given = list(frames)
    for frame in given:
        if not isinstance(frame, Frame):
            raise TypeError(f"a frame is a Frame, not {type(frame).__name__}")
        if frame.pool is not pool:
            raise ArgumentError(f"{frame!r} is not of pool {pool.name!r}")
    return np.array([frame.address for frame in given], np.uint64)


def _pointers(addresses: npt.NDArray[np.uint64]) -> Any:
    return ffi.cast("void **", ffi.from_buffer(addresses))


def stage(pool: Pool, count: int) -> Frames:
    """See Pool.stage()."""
    addresses = np.empty(count_argument(count), np.uint64)
    pool._call(lib.bufpool_py_stage, pool.native, len(addresses), _pointers(addresses))  # noqa: SLF001
    pool._frame_views.add(addresses)  # noqa: SLF001
    return Frames(pool, addresses)


def publish(pool: Pool, frames: FramesLike, pages: NumbersLike) -> None:
    """See Pool.publish()."""
    addresses, numbers = _addresses(pool, frames), pool._numbers(pages)  # noqa: SLF001
    if len(addresses) != len(numbers):
        raise ArgumentError(f"{len(addresses)} frames for {len(numbers)} pages: as many are needed")
    views, given = pool._frame_views, addresses.tolist()  # noqa: SLF001
    views.release(given, "publish")
    out = ffi.from_buffer("uint64_t[]", numbers)
    _used_up(pool, given, lib.bufpool_py_publish, _pointers(addresses), out)


def withdraw(pool: Pool, pages: NumbersLike) -> Frames:
    """See Pool.withdraw()."""
    numbers = pool._numbers(pages)  # noqa: SLF001
    addresses = np.zeros(len(numbers), np.uint64)
    try:
        pool._call(  # noqa: SLF001
            lib.bufpool_py_withdraw,
            pool.native,
            len(numbers),
            ffi.from_buffer("uint64_t[]", numbers),
            _pointers(addresses),
        )
    except Exception as error:
        done = addresses[addresses != 0]
        if len(done):  # the kernel failed midway: what was withdrawn is nobody else's
            pool._frame_views.add(done)  # noqa: SLF001
            error.frames = Frames(pool, done)  # type: ignore[attr-defined]
        raise
    pool._frame_views.add(addresses)  # noqa: SLF001
    return Frames(pool, addresses)


def unstage(pool: Pool, frames: FramesLike) -> None:
    """See Pool.unstage()."""
    addresses = _addresses(pool, frames)
    given = addresses.tolist()
    pool._frame_views.release(given, "give back")  # noqa: SLF001
    _used_up(pool, given, lib.bufpool_py_unstage, _pointers(addresses))


def _used_up(pool: Pool, given: list[int], function: Any, *arguments: Any) -> None:
    """Makes the call; if it fails, only those that it has done are used up."""
    try:
        pool._call(function, pool.native, len(given), *arguments)  # noqa: SLF001
    except BaseException:
        pool._frame_views.gone(given[: lib.bufpool_last_done()])  # noqa: SLF001
        raise
    pool._frame_views.gone(given)  # noqa: SLF001


def replace(pool: Pool, victim: PageLike, page: PageLike) -> None:
    """See Pool.replace()."""
    pool._call(lib.bufpool_py_replace, pool.native, page_number(pool, victim), page_number(pool, page))  # noqa: SLF001
