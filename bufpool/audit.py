"""ChangedPage: what pool.audit() says of a clean page that was written behind the pool's back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from bufpool._native import ffi, lib
from bufpool.errors import failure
from bufpool.report import event_from_native

if TYPE_CHECKING:
    from bufpool._native import CData
    from bufpool.report import PageEvent

_BATCH = 64


@attrs.frozen(kw_only=True)
class ChangedPage:
    """A clean page that has changed. str() says so in a sentence or two."""

    pool: str  # the pool's name
    page: int
    pattern: str  # "poison", "fresh", "scrubbed", when the whole page is that; else ""
    allocated: PageEvent | None  # or populated; as far as provenance keeps it, as the next two
    pinned: PageEvent | None  # last, where pins are counted
    unpinned: PageEvent | None

    def __str__(self) -> str:
        lines = [f"page {self.page} of pool {self.pool!r} has changed, though it is clean and nobody had it to write"]
        if self.pattern:
            lines.append(f"it is all {self.pattern} bytes")
        events = (("unpinned", self.unpinned), ("pinned", self.pinned), ("allocated", self.allocated))
        lines += [f"last {what}: {event}" for what, event in events if event is not None]
        return "\n  ".join(lines)


def audit(pool: CData, name: str) -> tuple[ChangedPage, ...]:
    """All changed pages of a native pool, in rising order."""
    changed, found = ffi.new(f"bufpool_changed[{_BATCH}]"), ffi.new("size_t *")
    pages: list[ChangedPage] = []
    start = 0
    while True:
        code = lib.bufpool_audit(pool, start, _BATCH, changed, found)
        if code:
            raise failure(code)
        pages += [_from_native(changed[i], name) for i in range(found[0])]
        if found[0] < _BATCH:
            return tuple(pages)
        start = pages[-1].page + 1


def _from_native(changed: CData, name: str) -> ChangedPage:
    return ChangedPage(
        pool=name,
        page=changed.page,
        pattern=ffi.string(changed.pattern).decode(),
        allocated=event_from_native(changed.allocated),
        pinned=event_from_native(changed.pinned),
        unpinned=event_from_native(changed.unpinned),
    )
