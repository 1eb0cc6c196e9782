"""Audit: pool.audit() names the clean pages that were written behind the pool's back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import bufpool

MODES = ["track", "checksum"]


def audited(mode: str, **given: str) -> bufpool.Pool:
    try:
        return bufpool.Pool("1 MiB", audit=mode, **given)  # type: ignore[arg-type]
    except bufpool.UnsupportedError as error:
        pytest.skip(str(error))


def found(pool: bufpool.Pool) -> list[int]:
    return [changed.page for changed in pool.audit()]


@pytest.mark.parametrize("mode", MODES)
def test_marks(mode: str) -> None:
    with audited(mode) as pool:
        numbers = pool.allocate_many(100)
        pool.mark_clean(numbers)
        assert (pool.stats().audit, pool.stats().clean) == (mode, 100)
        assert pool.audit() == ()
        for number in numbers[10:90]:
            pool.page(int(number))[0] = 1
        assert found(pool) == list(range(10, 90))  # more than are asked for at a time
        pool.mark_dirty(numbers[:50])
        pool.mark_clean(np.arange(50, 80, dtype=np.uint64))
        assert found(pool) == list(range(80, 90))
        pool.free_many(numbers)
        assert pool.audit() == ()
        assert pool.stats().clean == 0


@pytest.mark.parametrize("mode", MODES)
def test_counted_pins_say_what_is_clean(mode: str) -> None:
    with audited(mode, pins="count", provenance="stacks") as pool:
        page = pool.allocate()
        with page.pin(write=True):
            page[0] = 1
            assert pool.audit() == ()
        assert pool.audit() == ()
        page[:] = bytes([bufpool.FRESH]) * len(page)
        (changed,) = pool.audit()
        assert (changed.page, changed.pattern, changed.pool) == (page.number, "fresh", pool.name)
        assert changed.unpinned is not None
        assert "test_counted_pins_say_what_is_clean" in changed.unpinned.python_stack[-1]
        assert changed.pinned is not None
        assert changed.allocated is not None
        text = str(changed)
        assert f"page {page.number} of pool {pool.name!r} has changed" in text
        assert "all fresh bytes" in text
        assert "last unpinned: " in text
        with page.pin(write=True):
            page[0] = 2
        assert pool.audit() == ()


@pytest.mark.parametrize("mode", MODES)
def test_a_view_and_a_system_call_are_seen(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"other")
    with audited(mode) as pool:
        first, second, third = (pool.allocate(b"data") for _ in range(3))
        pool.mark_clean([first, second, third])
        first.buffer[17] = 1
        with path.open("rb", buffering=0) as file:
            assert file.readinto(second.buffer) == 5
        assert bytes(third.buffer[:4]) == b"data"  # read, not written
        assert found(pool) == [first.number, second.number]


def test_misuse() -> None:
    with bufpool.Pool("1 MiB") as pool:
        pool.mark_clean([3])  # nothing
        with pytest.raises(bufpool.UnsupportedError, match="is not audited"):
            pool.audit()
    with audited("checksum") as pool:
        with pytest.raises(bufpool.PageStateError, match=r"cannot mark page 3 .* unallocated"):
            pool.mark_clean([3])
        with pytest.raises(bufpool.PageStateError):
            pool.mark_dirty([1000])
    with pytest.raises(bufpool.PoolClosedError):
        pool.audit()


def test_what_does_not_go_together() -> None:
    for mode in MODES:
        with pytest.raises(bufpool.UnsupportedError, match="nothing to find later"):
            bufpool.Pool("1 MiB", audit=mode, pins="write")
    with pytest.raises(bufpool.UnsupportedError, match="huge pages would be split"):
        bufpool.Pool("2 MiB", page_size=None, memory="thp", audit="track")
    with pytest.raises(bufpool.UnsupportedError, match="only uffd tracks"):
        bufpool.Pool("1 MiB", trap="mprotect", audit="track")
    with pytest.raises(bufpool.ArgumentError, match="unknown audit"):
        bufpool.Pool("1 MiB", audit="always")


def test_others_writes_are_not_known_here() -> None:
    with audited("checksum", memory="shared", trap="uffd") as pool, pool.handle() as handle:
        with bufpool.Pool.attach(handle):
            pass
        with pytest.raises(bufpool.UnsupportedError, match="other processes"):
            pool.audit()
