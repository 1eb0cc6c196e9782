"""Looking at many pages at once: their states, all of them as one array, and guarded copies."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bufpool

PAGE = 4096


def filled(pool: bufpool.Pool, count: int) -> np.ndarray[Any, Any]:
    """Pages 0 to count - 1, allocated, and what is in them, one a row."""
    rows = np.frombuffer(os.urandom(count * PAGE), np.uint8).reshape(count, PAGE)
    for number, row in enumerate(rows):
        pool.allocate_at(number, row)
    return rows


def test_states(any_pool: bufpool.Pool) -> None:
    any_pool.allocate_many(4)
    any_pool.free(1)
    any_pool.evict(2)
    states = any_pool.states([3, 2, 1, 0, 63, 2])
    assert states.tolist() == ["allocated", "evicted", "freed", "allocated", "unallocated", "evicted"]
    assert (states == "evicted").sum() == 2
    assert any_pool.states([]).shape == (0,)
    with pytest.raises(bufpool.PageStateError, match="no page 64"):
        any_pool.states([0, 64])
    any_pool.close()
    assert any_pool.states([0, 1]).tolist() == ["closed"] * 2


def test_all_pages_as_one_array(pool: bufpool.Pool) -> None:
    rows = filled(pool, 5)
    every = pool.array()
    assert (every.shape, every.dtype) == ((pool.page_count, PAGE), np.uint8)
    assert (every[[4, 0, 2]] == rows[[4, 0, 2]]).all()
    every[[3, 1]] = rows[[0, 4]]
    assert bytes(pool.page(3)) == rows[0].tobytes()
    assert bytes(pool.page(1)) == rows[4].tobytes()
    assert pool.array("u8")[:5, 0].tolist() == [page.array("u8")[0] for page in map(pool.page, range(5))]
    pool.array().flags.writeable = False  # of that array alone
    assert pool.array().flags.writeable
    assert pool.page(0).array().flags.writeable
    bufpool.check()


def test_a_stray_access_through_the_array_is_raised_at_the_next_call(pool: bufpool.Pool) -> None:
    rows = filled(pool, 3)
    pool.free(1)
    copied = pool.array()[[0, 1, 2]]
    with pytest.raises(bufpool.StrayAccessError) as caught:
        pool.states([0])
    assert {report.page for report in caught.value.reports} == {1}
    assert (copied[[0, 2]] == rows[[0, 2]]).all()
    assert (copied[1] == bufpool.POISON).all()
    with pytest.raises(bufpool.ArgumentError, match="does not divide"):
        pool.array("V7")
    pool.close()
    with pytest.raises(bufpool.PoolClosedError):
        pool.array()


def test_red_zones_are_not_in_the_array() -> None:
    with bufpool.Pool(8 * PAGE, red_zones=True) as pool:
        rows = filled(pool, 8)
        assert (pool.array() == rows).all()
        assert (pool.read_many(np.arange(8)) == rows).all()


def test_read_many(pool: bufpool.Pool) -> None:
    rows = filled(pool, 6)
    numbers = [5, 0, 0, 3]
    read = pool.read_many(numbers)
    assert (read.shape, read.dtype) == ((4, PAGE), np.uint8)
    assert (read == rows[numbers]).all()
    out = np.zeros((4, PAGE // 8), np.uint64)
    assert pool.read_many(numbers, out) is out
    assert out.tobytes() == rows[numbers].tobytes()
    assert pool.read_many([]).shape == (0, PAGE)


def test_read_many_raises_right_there(pool: bufpool.Pool) -> None:
    rows = filled(pool, 4)
    pool.free(2)
    pool.evict(3)
    out = np.zeros((4, PAGE), np.uint8)
    with pytest.raises(bufpool.StrayAccessError) as caught:
        pool.read_many([1, 2, 0, 3], out)
    assert [(report.page, report.offset, report.access) for report in caught.value.reports] == [(2, 0, "read")]
    assert (out[0] == rows[1]).all()
    bufpool.check()
    with bufpool.catch_faults() as collected:
        read = pool.read_many([1, 2, 0, 3])
    assert [(report.page, report.state) for report in collected.reports] == [(2, "freed"), (3, "evicted")]
    assert (read[[0, 2]] == rows[[1, 0]]).all()
    assert (read[[1, 3]] == bufpool.POISON).all()


def test_what_is_owed_comes_before_a_read(any_pool: bufpool.Pool) -> None:
    filled(any_pool, 2)
    view = any_pool.page(7).buffer
    view[0]
    with pytest.raises(bufpool.StrayAccessError) as caught:
        any_pool.read_many([0, 1])
    assert caught.value.report.page == 7


@pytest.mark.parametrize(
    ("out", "error"),
    [
        (np.empty((2, PAGE - 1), np.uint8), bufpool.ArgumentError),
        (np.empty((3, PAGE), np.uint8), bufpool.ArgumentError),
        (np.empty((2, 2 * PAGE), np.uint8)[:, ::2], bufpool.ArgumentError),
        (np.frombuffer(bytes(2 * PAGE), np.uint8), bufpool.ArgumentError),
        (np.empty(PAGE // 4, object), bufpool.ArgumentError),
        (bytearray(2 * PAGE), TypeError),
    ],
)
def test_no_room(any_pool: bufpool.Pool, out: Any, error: type[Exception]) -> None:
    any_pool.allocate_many(2)
    with pytest.raises(error, match="out"):
        any_pool.read_many([0, 1], out)


def test_a_closed_pool(pool: bufpool.Pool) -> None:
    pool.allocate_many(2)
    pool.close()
    with pytest.raises(bufpool.StrayAccessError) as caught:
        pool.read_many([0, 1])
    assert caught.value.report.state == "closed"


@settings(max_examples=50, deadline=None)
@given(numbers=st.lists(st.integers(0, 15), max_size=30), holes=st.sets(st.integers(0, 15)))
def test_as_page_by_page(numbers: list[int], holes: set[int]) -> None:
    with bufpool.Pool(16 * PAGE) as pool:
        filled(pool, 16)
        pool.evict_many(sorted(holes))
        with bufpool.catch_faults():
            single = b"".join(bytes(pool.page(number)) for number in numbers)
        with bufpool.catch_faults() as caught:
            together = pool.read_many(numbers)
        assert together.tobytes() == single
        assert [report.page for report in caught.reports] == [number for number in numbers if number in holes]
        assert pool.states(numbers).tolist() == [pool.state(number) for number in numbers]
