"""A pool's counters."""

from __future__ import annotations

import attrs
import pytest

import bufpool


def test_counters_follow_the_calls(pool: bufpool.Pool) -> None:
    numbers = pool.allocate_many(10)
    pool.free_many(numbers[:2])
    pool.evict_many(numbers[2:5])
    pool.populate_many(numbers[2:4])
    with bufpool.catch_faults():
        pool.page(int(numbers[4]))[0]
    stats = pool.stats()
    assert (stats.allocated, stats.evicted) == (7, 1)
    assert (stats.allocations, stats.frees, stats.evictions, stats.populates) == (10, 2, 3, 2)
    assert (stats.faults, stats.reports_lost, stats.high_water) == (1, 0, int(numbers.max()) + 1)


def test_facts_agree_with_the_pool(pool: bufpool.Pool, kind: bufpool.Capability) -> None:
    stats = pool.stats()
    assert (stats.capacity, stats.page_size, stats.pages) == (pool.capacity, pool.page_size, pool.page_count)
    assert (stats.address, stats.granule, stats.name) == (pool.address, pool.granule, pool.name)
    assert (stats.memory, stats.trap, stats.on_fault) == (kind.memory, kind.trap, "raise")


def test_a_scratched_page_is_counted_until_it_is_armed_again(pool: bufpool.Pool) -> None:
    view = pool.page(1).buffer
    with bufpool.catch_faults() as caught:
        assert view[0] == bufpool.POISON
    stats = pool.stats()
    assert len(caught.reports) == stats.faults == stats.scratch_maps == 1
    assert stats.scratched == 0
    assert stats.scratch_ns > 0


def test_stats_are_frozen_and_outlive_the_pool(pool: bufpool.Pool) -> None:
    pool.allocate()
    pool.close()
    stats = pool.stats()
    assert stats.allocations == 1
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        stats.faults = 7  # type: ignore[misc]


def test_the_ways_that_were_taken_are_named_and_counted(pool: bufpool.Pool, kind: bufpool.Capability) -> None:
    numbers = pool.allocate_many(4)
    pool.free_many(numbers[::2])
    stats = pool.stats()
    filled = sum(stats.ways[way] for way in stats.fill_ways.split(", "))
    zapped = sum(stats.ways[way] for way in stats.zap_ways.split(", "))
    granules = pool.page_size // pool.granule
    assert (filled, zapped) == (4 * granules, 2 * granules), kind
    assert filled + zapped == sum(stats.ways.values())
    assert (stats.ways_busy, stats.ways_memory, stats.ways_refused) == (0, 0, 0)
    assert hash(stats) == hash(attrs.evolve(stats))
