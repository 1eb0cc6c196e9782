"""Sampling: one allocation in so many is guarded, by a seed that can be repeated."""

from __future__ import annotations

import pytest
from conftest import CAPABILITIES

import bufpool

SHARED = next(entry for entry in CAPABILITIES.entries if (entry.memory, entry.trap) == ("shared", "uffd"))


def guarded(pool: bufpool.Pool, count: int) -> list[int]:
    """The numbers of the pages that are closed when they have been pinned and unpinned."""
    numbers = pool.allocate_many(count)
    with pool.pin_many(numbers, write=True):
        pass
    return [int(number) for number in numbers if pool.explain(pool.page(int(number)).buffer) is not None]


def test_the_seed_repeats_the_choice() -> None:
    with bufpool.Pool("4 MiB", sample=10) as pool:
        first = guarded(pool, 1000)
        statistics = pool.stats()
    assert 50 < len(first) < 200
    assert (statistics.sample, statistics.sampled) == (10, len(first))
    with bufpool.Pool("4 MiB", sample=10, seed=statistics.seed) as pool:
        assert guarded(pool, 1000) == first
    with bufpool.Pool("4 MiB", sample=10, seed=statistics.seed + 1) as pool:
        assert guarded(pool, 1000) != first


def test_a_stray_access_to_a_guarded_page_is_raised() -> None:
    with bufpool.Pool("1 MiB", sample=1, provenance="stacks") as pool:
        page = pool.allocate(b"data")
        assert page[:4] == b"data"  # nobody has pinned it yet
        with page.pin():
            assert page[:4] == b"data"
        with pytest.raises(bufpool.StrayAccessError) as caught:
            page[0]
        assert caught.value.report.state == "unpinned"
        assert caught.value.report.freed is not None
        assert "test_a_stray_access" in caught.value.report.freed.python_stack[-1]
        assert (caught.value.report.sample, caught.value.report.seed) == (1, pool.stats().seed)
        assert f"the same ones again with seed {pool.stats().seed}\n" in str(caught.value.report)
        with pytest.raises(bufpool.PageStateError, match="has no pin"):
            page.unpin()
        with page.pin(write=True):
            page[0] = 1


def test_without_sample_nothing_is_chosen() -> None:
    with bufpool.Pool("1 MiB") as pool:
        with pytest.raises(bufpool.StrayAccessError) as caught:
            pool.page(200)[0]
        assert (caught.value.report.sample, caught.value.report.seed) == (0, None)
        assert guarded(pool, 100) == []
        assert (pool.stats().sample, pool.stats().seed, pool.stats().sampled) == (0, 0, 0)


def test_from_outside() -> None:
    bufpool.configure("sample=1:seed=17")
    try:
        with bufpool.Pool("1 MiB") as pool:
            assert (pool.stats().sample, pool.stats().seed) == (1, 17)
    finally:
        bufpool.configure("")


def test_who_attaches_samples_what_it_allocates_itself() -> None:
    if not SHARED.available:
        pytest.skip(f"shared-uffd: {SHARED.reason}")
    with bufpool.Pool("1 MiB", memory="shared", trap="uffd") as pool, pool.handle() as handle:
        theirs = pool.allocate(b"theirs")
        bufpool.configure("sample=1")
        try:
            with bufpool.Pool.attach(handle, seed=17) as attached:
                facts = attached.stats()
                assert (facts.sample, facts.seed) == (1, 17)
                mine = attached.allocate(b"mine")
                for page in (mine, attached.page(theirs.number)):
                    with page.pin():
                        assert page[0] != 0
                with pytest.raises(bufpool.StrayAccessError, match="is unpinned"):
                    mine[0]
                assert attached.page(theirs.number)[:6] == b"theirs"
                assert pool.page(mine.number)[:4] == b"mine"
        finally:
            bufpool.configure("")
        with pytest.raises(bufpool.ArgumentError, match="goes with sample"):
            bufpool.Pool.attach(handle, seed=17)
        with pytest.raises(bufpool.ArgumentError, match="every page is guarded"):
            bufpool.Pool.attach(handle, sample=5, pins="all")


def test_what_does_not_go_together() -> None:
    with pytest.raises(bufpool.ArgumentError, match="every page is guarded"):
        bufpool.Pool("1 MiB", sample=10, pins="all")
    with pytest.raises(bufpool.UnsupportedError, match="traps nothing"):
        bufpool.Pool("1 MiB", sample=10, trap="none")
    with pytest.raises(bufpool.UnsupportedError, match="checksum"):
        bufpool.Pool("1 MiB", sample=10, audit="checksum")
    with pytest.raises(bufpool.ArgumentError, match="goes with sample"):
        bufpool.Pool("1 MiB", seed=1)
    with pytest.raises(bufpool.ArgumentError, match="sample -1 must be"):
        bufpool.Pool("1 MiB", sample=-1)
