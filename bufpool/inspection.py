"""Findings: what pool.inspect() and `bufpool check` say of a pool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from bufpool._native import ffi, lib
from bufpool.errors import failure

if TYPE_CHECKING:
    from bufpool._native import CData


@attrs.frozen(kw_only=True)
class WrongPage:
    """A page with which something is wrong."""

    page: int
    what: str  # "abandoned", "lost frame", "stray frame", "index", "scratch", "state"
    state: str  # "allocated", "freed", ...; of a page amid a change, the state that it comes from


@attrs.frozen(kw_only=True)
class Findings:
    """What a look at all of a pool has found. Pages, but for index_wrong and counts_wrong."""

    pages: int  # all: the sum of the next five
    allocated: int
    evicted: int
    free: int  # never allocated, or freed; among them
    lagging: int  # those that keep their frame, and do not trap yet: see free_lag
    busy: int  # amid a change by a process that lives
    abandoned: int  # amid a change by a process that is gone
    lost_frames: int  # allocated, and the frame is gone, or part of it
    stray_frames: int  # not allocated, and there is a frame: what touches it does not trap
    index_wrong: int  # bits of the index of free numbers
    counts_wrong: int  # of the pool's counts; 0 unless exact
    scratched: int  # withheld for the scratch pattern
    scratch_wrong: int  # of those, where nobody shows it
    states_wrong: int  # the state means nothing
    repaired: int  # how many of the above were put right
    exact: bool  # nobody changed anything meanwhile; else what is just being changed was passed over
    wrong: tuple[WrongPage, ...]  # the first 16

    @property
    def total(self) -> int:
        """How much is wrong."""
        return sum(self.by_kind().values())

    @property
    def clean(self) -> bool:
        """Whether nothing is, or was before the repair."""
        return self.total == 0

    def by_kind(self) -> dict[str, int]:
        """How much is wrong, by kind, as in WrongPage.what; and the "counts"."""
        return {
            "abandoned": self.abandoned,
            "lost frame": self.lost_frames,
            "stray frame": self.stray_frames,
            "index": self.index_wrong,
            "scratch": self.scratch_wrong,
            "state": self.states_wrong,
            "counts": self.counts_wrong,
        }

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return attrs.asdict(self)


def inspect(pool: CData, repair: bool) -> Findings:
    """Looks at a native pool."""
    found = ffi.new("bufpool_findings *", {"size": ffi.sizeof("bufpool_findings")})
    code = lib.bufpool_inspect(pool, lib.BUFPOOL_REPAIR if repair else 0, found)
    if code:
        raise failure(code)
    wrong = tuple(
        WrongPage(
            page=page.page,
            what=ffi.string(lib.bufpool_wrong_name(page.what)).decode(),
            state=ffi.string(lib.bufpool_state_name(page.state)).decode(),
        )
        for page in found.wrong[0 : found.wrong_count]
    )
    names = {field.name for field in attrs.fields(Findings)} - {"exact", "wrong"}
    return Findings(exact=bool(found.exact), wrong=wrong, **{name: getattr(found, name) for name in names})
