"""Pin and Pins: what Page.pin() and Pool.pin_many() give, to be used in a with statement or not at all.

An unpin is done whatever else there is to say: what the thread is still owed is raised after it.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

import attrs

from bufpool._native import ffi, lib
from bufpool.errors import PoolClosedError, failure
from bufpool.faults import check, recorded

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from bufpool.page import Page
    from bufpool.pool import Pool

_unpin_recorded = recorded(lib.bufpool_unpin)
_unpin_for_recorded = recorded(lib.bufpool_unpin_for)
_unpin_many_recorded = recorded(lib.bufpool_unpin_many)


def unpin(pool: Pool, number: int, write: bool | None) -> None:
    """Gives one pin back: of that kind, or of any."""
    stacks = pool.provenance == "stacks"
    if write is None:
        code = (_unpin_recorded if stacks else lib.bufpool_unpin)(pool.native, number)
    else:
        code = (_unpin_for_recorded if stacks else lib.bufpool_unpin_for)(pool.native, number, bool(write))
    if code:
        raise failure(code)


def unpin_many(pool: Pool, numbers: npt.NDArray[np.uint64], write: bool) -> None:
    """Gives a pin of that kind back for each of them."""
    function = _unpin_many_recorded if pool.provenance == "stacks" else lib.bufpool_unpin_many
    code = function(pool.native, len(numbers), ffi.from_buffer("uint64_t[]", numbers), write)
    if code:
        raise failure(code)


@attrs.frozen(slots=True)
class Pin:
    """A page that is pinned until the with block ends."""

    page: Page
    write: bool

    def __enter__(self) -> Page:
        return self.page

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        _end(self.page.pool, lambda: unpin(self.page.pool, self.page.number, self.write), error)


@attrs.frozen(slots=True)
class Pins:
    """Pages that are pinned until the with block ends."""

    pool: Pool
    numbers: npt.NDArray[np.uint64]
    write: bool

    def __enter__(self) -> npt.NDArray[np.uint64]:
        return self.numbers

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        _end(self.pool, lambda: unpin_many(self.pool, self.numbers, self.write), error)


def _end(pool: Pool, give_back: Callable[[], None], error: BaseException | None) -> None:
    """A pool that was closed inside the block has no pins any more; what is owed waits while an error is on its way."""
    try:
        give_back()
    except PoolClosedError:
        if not pool.closed:
            raise
    if error is None:
        check()
