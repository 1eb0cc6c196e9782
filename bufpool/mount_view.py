"""What `bufpool mount` prints: what is mounted, how the reserve changed, how to use it and how to have it at boot."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from bufpool import sizes
from bufpool.hugepages import HugepageCounts, HugepageMount
from bufpool.mounting import fstab_line
from bufpool.owners import name_of


def lines(mounted: HugepageMount, before: Sequence[HugepageCounts], after: Sequence[HugepageCounts]) -> Iterator[str]:
    """All of it; before and after are the counts on either side of the mount."""
    owner = f"{mounted.uid}:{mounted.gid} ({name_of(mounted.uid)}), mode {mounted.mode:04o}"
    noautofill = ", noautofill" if mounted.noautofill else ""
    yield f"mounted {mounted.path}: huge pages of {sizes.text(mounted.page_size)}{noautofill}"
    yield f"  at most {size_text(mounted.size)}, {size_text(mounted.min_size)} of it reserved; owner {owner}"
    yield from changes(before, after)
    file = str(PurePosixPath(mounted.path, "pool"))
    yield "use it:"
    yield f"  bufpool.Pool({json.dumps(size_text(mounted.size))}, page_size=None, memory={json.dumps(file)})"
    yield "have it at boot, in /etc/fstab:"
    yield f"  {fstab_line(mounted)}"
    if mounted.min_size:
        page, count = mounted.page_size, mounted.min_size // mounted.page_size
        yield "and, so that there is something to reserve by then, on the kernel's command line:"
        yield (
            f"  hugepagesz={page >> 20}M hugepages={count}"
            if page >> 20
            else f"  hugepagesz={page >> 10}K hugepages={count}"
        )


def changes(before: Sequence[HugepageCounts], after: Sequence[HugepageCounts]) -> Iterator[str]:
    """A line for each size of huge page whose reserve is not what it was."""
    was = {counts.size: counts.reserved for counts in before}
    for counts in after:
        old = was.get(counts.size, 0)
        if counts.reserved != old:
            yield (
                f"  huge pages of {sizes.text(counts.size)} in reserve: {old} before, {counts.reserved} now; "
                f"{counts.free} of {counts.total} are free, {counts.reservable} more can be reserved"
            )


def size_text(size: int | None) -> str:
    """A size that may be 0 or without limit."""
    return "no limit" if size is None else sizes.text(size) if size else "0"
