"""The cost model's table: what an operation takes, beside the system calls and copies that it cannot do without.

The limit is put together from the mapping operations of the same run (bench/mapping_ops.c), each with a number of pages
in a call. Where there are several ways, the limit is the cheapest of those that keep the promise: the page traps until
it appears whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from suite import tables, words
from suite.curves import series


class Step(NamedTuple):
    """A mapping operation, with so many pages in a call."""

    operation: str
    pages: int = 1


COPY = "memcpy into a resident page"
IN, OUT = "UFFDIO_MOVE in", "UFFDIO_MOVE out"
WHOLE = "UFFDIO_MOVE of a whole 2 MiB page"


class Cost(NamedTuple):
    operation: str
    row: str  # its key; empty: none measures it
    limit: tuple[Step, ...]
    why: str  # what is paid above it


COSTS = (
    Cost("read or write a resident page", "", (), "nothing: no instruction of ours is on the way"),
    Cost(
        "allocate + fill one, steady state", "test_fill_free::test_fill_single", (Step("UFFDIO_COPY"),),
        "the page's state, the free list; where recycling is quicker, memcpy and a move in place of the copy",
    ),
    Cost(
        "allocate + fill one, growing", "test_fill_free::test_fill_growing", (Step("UFFDIO_COPY"),),
        "the page's state, the free list",
    ),
    Cost(
        "allocate + fill, 512 in a call", "test_fill_free::test_fill_batch", (Step("UFFDIO_COPY", 512),),
        "512 states claimed by compare-and-swap; the kernel's share is a frame, a memory cgroup's charge and the copy",
    ),
    Cost(
        "allocate 512 of zeros, owner fills", "test_fill_free::test_fill_in_place",
        (Step("UFFDIO_COPY", 512), Step(COPY)),
        "less than the sum, since the page is still in the cache; filled calls save a step",
    ),
    Cost("free one, steady state", "test_fill_free::test_free_single", (Step(OUT),), "the page's state, the free list"),
    Cost(
        "free one, shrinking", "test_fill_free::test_free_shrinking", (Step("madvise(DONTNEED)"),),
        "the page's state, the free list, now and then a batch of kept frames given back",
    ),
    Cost(
        "free 64 scattered in a call", "test_fill_free::test_free_scattered",
        (Step("process_madvise(DONTNEED), scattered pages", 64),), "states, the list of ranges",
    ),
    Cost(
        "free 512 neighbours in a call", "test_fill_free::test_free_batch", (Step("madvise(DONTNEED)", 512),),
        "512 states, each checked before the first is changed",
    ),
    Cost(
        "evict one", "test_frame_costs::test_evict", (Step("madvise(DONTNEED)"),),
        "the page's state",
    ),
    Cost(
        "evict 64 scattered in a call", "test_frame_costs::test_evict_scattered",
        (Step("process_madvise(DONTNEED), scattered pages", 64),), "states, the list of ranges",
    ),
    Cost(
        "publish, 64 neighbours in a call", "test_frame_costs::test_publish", (Step(IN, 64),),
        "states; scattered pages take a call each, so that one page's price is what counts there",
    ),
    Cost("publish one", "test_frame_costs::test_publish_single", (Step(IN),), "the page's state"),
    Cost("withdraw 64 neighbours in a call", "test_frame_costs::test_withdraw_batch", (Step(OUT, 64),), "states"),
    Cost("withdraw one", "test_frame_costs::test_withdraw", (Step(OUT),), "the page's state"),
    Cost("replace", "test_frame_costs::test_replace", (Step(IN),), "two states; one move from address to address"),
    Cost(
        "thp: publish 2 MiB", "test_huge_fill::test_thp_publish", (Step(WHOLE),),
        "asking the kernel whether the frame is one huge page; states",
    ),
    Cost(
        "thp: free 2 MiB", "test_huge_fill::test_thp_free", (Step(WHOLE),),
        "asking whether the frame is one huge page",
    ),
    Cost(
        'pin + unpin for writing, pins="write"', "test_pins::test_write[sides0]",
        (Step("userfaultfd write-protect on + off"),), "pin counts, provenance",
    ),
    Cost(
        "a stray access, reported (resume)", "test_provenance::test_report[off]", (),
        "the limit is sigaction + siglongjmp out of the handler; above it: diagnosis, stack, report, armed again",
    ),
)  # fmt: skip


def _limit(results: Mapping[str, Any], curve: str, steps: tuple[Step, ...]) -> float | None:
    found = series(results["rows"], curve)
    points = [found.get(step.operation, {}).get(float(step.pages)) for step in steps]
    return sum(point["value"] for point in points if point) if points and all(points) else None


def _text(ns: float | None) -> str:
    return "" if ns is None else words.duration(ns)


def _steps(steps: tuple[Step, ...]) -> str:
    return " + ".join(f"{step.operation}, {step.pages} a call" if step.pages > 1 else step.operation for step in steps)


def _ours(row: Mapping[str, Any] | None) -> float | None:
    if row is None:
        return None
    return float(row["value"] if row["kind"] == "difference" else row["ours"][1])


def markdown(results: Mapping[str, Any]) -> str:
    """bench/README.md's block."""
    rows = {row["key"]: row for row in results["rows"]}
    lines = [
        tables.machine(results),
        "",
        "| operation, per page | bufpool | limit, alone | above it | limit beside a second thread | the limit is "
        "| what is paid above it |",
        "|---|---|---|---|---|---|---|",
    ]
    for cost in COSTS:
        row = rows.get(cost.row)
        alone, beside = (_limit(results, f"mapping {where}", cost.limit) for where in ("alone", "beside"))
        if row and not cost.limit:
            alone = row["others"][1]
        ours = _ours(row)
        above = "" if ours is None or alone is None else f"{words.duration(ours - alone)}, {ours / alone - 1:+.0%}"
        lines.append(
            f"| {cost.operation} | {_text(ours)} | {_text(alone)} | {above} | {_text(beside)} "
            f"| {_steps(cost.limit)} | {cost.why} |"
        )
    return "\n".join(lines) + "\n"
