"""What callers pass, checked and made ready for C: texts, paths, data, counts, page numbers."""

from __future__ import annotations

import operator
import os
from array import array
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Union

import numpy as np

from bufpool._native import ffi
from bufpool.errors import ArgumentError, PageStateError

if TYPE_CHECKING:
    import numpy.typing as npt

    from bufpool._native import CData
    from bufpool.page import Page
    from bufpool.pool import Pool

PageLike = Union["Page", int]
_INTEGERS = (int, np.integer)
NumbersLike = Union["npt.NDArray[Any]", Iterable["Page | int"]]


def data_argument(value: Any, name: str = "data") -> CData:
    """The memory of a bytes-like object, without a copy; None is empty. Its length in bytes is ffi.sizeof().

    To be used in a with statement: what is left to the garbage collector crashes CPython 3.11 if it is of a memoryview.
    """
    try:
        return ffi.from_buffer(b"" if value is None else value)
    except (BufferError, ValueError):
        raise ArgumentError(f"{name} must lie in one piece of memory; bytes({name}) makes it so") from None
    except TypeError:
        raise TypeError(f"{name} must be bytes-like, not {type(value).__name__}") from None


def c_text(value: Any, what: str) -> CData:
    """A string for C, kept alive by the returned object."""
    if not isinstance(value, str):
        raise TypeError(f"{what} must be text, not {type(value).__name__}")
    if "\0" in value:
        raise ArgumentError(f"{what} {value!r} must not contain a NUL character")
    try:
        return ffi.new("char[]", os.fsencode(value))
    except UnicodeEncodeError as error:
        raise ArgumentError(f"{what} {value!r} holds what {error.encoding} cannot encode: {error.reason}") from None


def c_path(value: Any, what: str) -> CData:
    """The same for the path of a file, which may be text, bytes or path-like."""
    try:
        path = os.fsdecode(value)
    except TypeError:
        raise TypeError(f"{what} must be a path as text, bytes or path-like, not {type(value).__name__}") from None
    return c_text(path, what)


def integer_argument(value: Any, what: str) -> int:
    """An integer of any kind, but for bool."""
    if not isinstance(value, bool):
        try:
            return operator.index(value)
        except TypeError:
            pass
    raise TypeError(f"{what} must be an integer, not {type(value).__name__}")


def nodes_text(value: Any) -> str:
    """NUMA nodes as C reads them: text as it is, numbers joined by commas."""
    if isinstance(value, str):
        return value
    if not isinstance(value, Iterable) or isinstance(value, (bytes, bytearray)):
        raise TypeError(f"numa must be text or an iterable of node numbers, not {type(value).__name__}")
    return ",".join(str(integer_argument(node, "a node of numa")) for node in value)


def count_argument(value: Any) -> int:
    """A number of pages."""
    count = integer_argument(value, "count")
    if count < 0:
        raise ArgumentError(f"count {count} must be 0 or more")
    return count


def depth_argument(value: Any) -> int:
    """A number of frames; None is 0, the default of C, where the limit is checked."""
    if value is None:
        return 0
    depth = integer_argument(value, "provenance_depth")
    if not 1 <= depth < 2**32:
        raise ArgumentError(f"provenance_depth {depth} must be from 1 to 16, or None for 8")
    return depth


def limit_argument(value: Any) -> int:
    """A report_limit."""
    limit = integer_argument(value, "report_limit")
    if not 1 <= limit < 2**32:
        raise ArgumentError(f"report_limit {limit} must be from 1 to {2**32 - 1}, which is no limit; None gives 16")
    return limit


def sample_arguments(sample: Any, seed: Any) -> dict[str, int]:
    """A sample and its seed."""
    numbers = {
        "sample": integer_argument(sample, "sample"),
        "seed": 0 if seed is None else integer_argument(seed, "seed"),
    }
    for (name, number), limit in zip(numbers.items(), (2**32, 2**64), strict=True):
        if not 0 <= number < limit:
            raise ArgumentError(f"{name} {number} must be from 0 to {limit - 1}")
    return numbers


def lag_argument(free_lag: Any) -> int:
    """Pages that may lag."""
    number = integer_argument(free_lag, "free_lag")
    if not 0 <= number < 2**64:
        raise ArgumentError(f"free_lag {number} must be from 0, for none, to {2**64 - 1} pages")
    return number


def page_number(pool: Pool, page: Any) -> int:
    """The number of a page of this pool, given as Page or number. Raises PageStateError, TypeError."""
    if isinstance(page, int) and not isinstance(page, bool):
        number = page
    elif hasattr(page, "pool"):
        if page.pool is not pool:
            raise PageStateError(f"{page!r} is not a page of {pool.name!r}")
        return int(page.number)
    else:
        try:
            number = integer_argument(page, "")
        except TypeError:
            raise TypeError(f"a page is a Page or its number, not {type(page).__name__}") from None
    if not 0 <= number < pool.page_count:
        raise PageStateError(no_such_page(pool, number))
    return number


def page_array(pool: Pool, pages: Any) -> npt.NDArray[Any]:
    """Pages that are given otherwise than as a numpy array, as one: of anything like an array, or an iterable."""
    if isinstance(pages, (array, memoryview)) or (hasattr(pages, "__array__") and not isinstance(pages, np.generic)):
        return np.asarray(pages)
    if isinstance(pages, (list, tuple)) and all(
        kind is not bool and issubclass(kind, _INTEGERS) for kind in set(map(type, pages))
    ):
        try:
            return np.frombuffer(array("Q", pages), np.uint64)
        except OverflowError:  # one of them is negative, or far too large: which, is found below
            pass
    try:
        return np.fromiter((page_number(pool, page) for page in pages), np.uint64)
    except TypeError:
        if isinstance(pages, Iterable):
            raise
        raise TypeError(f"pages must be an array or an iterable of pages, not {type(pages).__name__}") from None


def copied_numbers(pages: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """A copy of an array of page numbers, as C takes it; what is negative is too large in it."""
    if pages.dtype.kind not in "ui":
        raise TypeError(f"page numbers must be integers, not an array of {pages.dtype}")
    if pages.ndim != 1:
        raise ArgumentError(f"page numbers must be an array of one dimension, not of shape {pages.shape}")
    return pages.astype(np.uint64, order="C")


def check_numbers(pool: Pool, pages: npt.NDArray[Any], numbers: npt.NDArray[np.uint64]) -> None:
    """Raises PageStateError for the first that is not the pool's. pages: what numbers was copied from."""
    if len(numbers) and numbers.max() >= pool.page_count:
        wrong = numbers[numbers >= pool.page_count][:1]
        raise PageStateError(no_such_page(pool, int((wrong.view(np.int64) if pages.dtype.kind == "i" else wrong)[0])))


def no_such_page(pool: Pool, number: int) -> str:
    """The sentence for a number outside the pool."""
    return f"there is no page {number} in {pool.name!r}: its {pool.page_count} pages are numbered from 0"
