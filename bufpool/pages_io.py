"""Pages from a file and to it: what the calls take and return. See Pool.read_from()."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol, Union

import attrs
import numpy as np

from bufpool._native import ffi, lib
from bufpool.arguments import NumbersLike, integer_argument
from bufpool.errors import ArgumentError, BufpoolError, StrayAccessError, TransferError, last_sentence
from bufpool.faults import check

if TYPE_CHECKING:
    import numpy.typing as npt

    from bufpool.pool import Pool


class HasFileno(Protocol):
    """A file, a socket: whatever has a descriptor."""

    def fileno(self) -> int:
        """Give the descriptor."""
        ...


FileLike = Union[int, "HasFileno"]
OffsetsLike = Union["npt.NDArray[Any]", Iterable[int]]

_UNTOUCHED = 1  # no result is positive
_ERRNOS = {lib.BUFPOOL_ESTATE: errno.EBUSY, lib.BUFPOOL_EEXHAUSTED: errno.ENOMEM}


@attrs.frozen(slots=True, eq=False)
class Transfer:
    """What became of each page of a batch, in its order.

    errors has 0 for a page that was moved whole, or an errno: ENODATA (the file ends before the page does), EBUSY (the
    page's state forbids it), ENOMEM (no frames), EIO and whatever else the kernel said.
    """

    pages: npt.NDArray[np.uint64]
    offsets: npt.NDArray[np.uint64]
    errors: npt.NDArray[np.int32]

    @property
    def failed(self) -> npt.NDArray[np.uint64]:
        """The numbers of the pages that have failed."""
        return np.compress(self.errors != 0, self.pages)

    @property
    def done(self) -> npt.NDArray[np.uint64]:
        """The numbers of the others."""
        return np.compress(self.errors == 0, self.pages)


def transfer(pool: Pool, function: Any, fd: FileLike, offsets: OffsetsLike, pages: NumbersLike) -> Transfer:
    """Makes one of the two calls. Raises TransferError when a page has failed, else what a refused batch raises."""
    descriptor = _descriptor(fd)
    places = _offsets(offsets)
    numbers = pool._numbers(pages)  # noqa: SLF001
    if len(places) != len(numbers):
        raise ArgumentError(f"{len(places)} offsets for {len(numbers)} pages: as many are needed")
    codes = np.full(len(numbers), _UNTOUCHED, np.int32)
    try:
        pool._call(  # noqa: SLF001
            function,
            pool.native,
            descriptor,
            len(numbers),
            ffi.from_buffer("uint64_t[]", places),
            ffi.from_buffer("uint64_t[]", numbers),
            ffi.from_buffer("int[]", codes),
        )
    except StrayAccessError:
        raise
    except BufpoolError:
        sentence = last_sentence()
        wrong = codes[codes != 0]
        if not len(wrong) or wrong[0] == _UNTOUCHED:  # refused whole
            raise
        result = Transfer(numbers, places, _errnos(codes))
        raise TransferError(int(result.errors[result.errors != 0][0]), sentence, result) from None
    return Transfer(numbers, places, codes)


def _errnos(codes: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    return np.array([_ERRNOS.get(code, -code) for code in codes.tolist()], np.int32)


def _descriptor(fd: Any) -> int:
    number = integer_argument(fd.fileno() if hasattr(fd, "fileno") else fd, "fd")
    if not 0 <= number < 2**31:
        raise ArgumentError(f"fd {number} is no descriptor: pass one that is open, from 0 to {2**31 - 1}")
    return number


def _offsets(offsets: Any) -> npt.NDArray[np.uint64]:
    """A copy. An array may be a view of a page: a stray access to it comes first."""
    if isinstance(offsets, np.ndarray):
        check()
        array = offsets.copy()
        check()
    elif isinstance(offsets, Iterable):
        given = [integer_argument(offset, "an offset") for offset in offsets]
        wrong = [offset for offset in given if not 0 <= offset < 2**63]
        if wrong:
            raise ArgumentError(f"offset {wrong[0]} must be from 0 to {2**63 - 1}")
        array = np.array(given, np.uint64)
    else:
        raise TypeError(f"offsets must be an array or an iterable of integers, not {type(offsets).__name__}")
    if array.dtype.kind not in "ui":
        raise TypeError(f"offsets must be integers, not an array of {array.dtype}")
    if array.ndim != 1:
        raise ArgumentError(f"offsets must be an array of one dimension, not of shape {array.shape}")
    if array.dtype.kind == "i" and len(array) and array.min() < 0:
        raise ArgumentError(f"offset {int(array.min())} must be from 0 to {2**63 - 1}")
    return np.ascontiguousarray(array, np.uint64)
