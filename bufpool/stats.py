"""PoolStats: a pool's counters."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

import attrs

from bufpool._native import ffi, lib

if TYPE_CHECKING:
    from bufpool._native import CData

_Stats = TypeVar("_Stats")


@attrs.frozen(kw_only=True)
class PoolStats:
    """A pool's counters, read one by one and not as one snapshot. Sizes are bytes."""

    capacity: int
    page_size: int
    granule: int  # the smallest unit that traps
    address: int  # of page 0
    pages: int  # capacity / page_size
    allocated: int  # pages, now
    evicted: int  # pages, now
    scratched: int  # pages, now: diverted to the scratch pattern after a stray access, not yet re-armed
    high_water: int  # 1 + the highest page number ever allocated
    allocations: int  # pages, since open; the same for the next three
    frees: int
    evictions: int
    populates: int
    faults: int  # stray accesses trapped since open
    repeats: int  # faults not reported again: the same access, re-armed by another thread before it was over
    scratch_maps: int  # times a granule was diverted: accesses to it were invisible until it was re-armed
    scratch_ns: int  # total time, in nanoseconds, during which diverted granules could hide a further stray access
    reports_lost: int  # faults that were counted but could not be kept or written in full
    frames_kept: int  # frames of freed or evicted pages kept for the next allocation, now; those pages trap
    recycled: int  # times a granule was filled by such a frame, since open
    huge_fills: int  # granules that were filled with one huge page, since open
    small_fills: int  # granules of memory thp that were filled with small pages, since open
    provenance_lost: int  # calls of which the thread or the stack could not be kept: the tables were full
    reports_limited: int  # reports that were only counted, not written or logged in full: see report_limit
    faults_all: int  # stray accesses trapped in all the processes that have, or had, the pool
    pins: int  # held now, by this process
    pin_operations: int  # pins and unpins by this process, since open; 0 while pins is "off"
    clean: int  # pages that an audit watches, now
    sample: int  # one allocation in so many is guarded; 0: none
    seed: int  # that is used, 0 without sample
    sampled: int  # pages that were chosen, since open
    members: int  # processes that have the pool; 1 if it is private to this one, 0 when it is closed
    red_zone: int  # bytes, before each page and after the last; 0: none
    lagging: int  # freed pages that do not trap yet, now: see free_lag;
    lag_reused: int  # and pages that were allocated into such a frame, since open
    quarantined: int  # freed pages whose numbers rest, now: see quarantine
    reserve_lost: int  # with reserve: huge pages that could not be reserved again after a free, since open
    restarts: int  # optimistic sections (C) that a hole has restarted, since open
    name: str
    memory: str
    trap: str
    on_fault: str
    backing: str  # what the frames really are
    trap_note: str  # for trap "auto": why the traps tried before it were not used; else empty
    provenance: str  # "off", "last" or "stacks"
    pins_mode: str  # what Pool(pins=...) was
    audit: str  # what Pool(audit=...) was
    fill_ways: str  # the ways that granules are filled, in the order in which they are tried, as "move, copy"
    zap_ways: str  # the same of taking frames away
    ways: dict[str, int] = attrs.field(hash=False)  # granules that went each way, since open, by this process
    ways_busy: int  # times a way was refused since somebody held the frame or changed the mapping, and another taken
    ways_memory: int  # the same for want of memory
    ways_refused: int  # the same for any other reason
    staged: int  # frames that the program has, now, in this process
    frames_moved: int  # pages that were published, withdrawn or replaced by moving their frame, since open;
    frames_copied: int  # and by copying their content
    pages_read: int  # by read_from(), and
    pages_written: int  # by write_to(), since open, by this process; how many requests of the kernel
    io_requests: int  # that took; and how many of these
    io_queued: int  # were in flight together, by io_uring
    memory_note: str  # where memory, numa, lock, dump came out as less than, or other than, asked; else empty


def of_pool(statistics: CData) -> PoolStats:
    """A PoolStats of what bufpool_stats() has filled in."""
    names = ((way, ffi.string(lib.bufpool_way_name(way)).decode()) for way in range(lib.BUFPOOL_WAYS))
    return from_native(PoolStats, statistics, ways={name: int(statistics.ways[way]) for way, name in names if name})


def from_native(kind: Callable[..., _Stats], statistics: CData, **given: Any) -> _Stats:
    """An attrs class filled from the struct whose members have the same names, but for what is given."""
    fields: tuple[attrs.Attribute[Any], ...] = attrs.fields(cast("Any", kind))
    names = [field.name for field in fields if field.name not in given]
    return kind(**{name: _value(getattr(statistics, name)) for name in names}, **given)


def _value(value: int | CData) -> int | str:
    return value if isinstance(value, int) else ffi.string(value).decode("utf-8", "replace")
