"""What a thread is owed, catch_faults(), check() and the reports."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import attrs
import numpy as np
import pytest

import bufpool

PAGE = 4096
POISON = bytes([bufpool.POISON])
PoolMaker = Callable[..., bufpool.Pool]


def stray(pool: bufpool.Pool, number: int = 3, offset: int = 7) -> None:
    """A stray read through a view."""
    assert pool.page(number).buffer[offset] == bufpool.POISON


def test_a_stray_access_through_a_view_is_owed(pool: bufpool.Pool) -> None:
    stray(pool)
    with pytest.raises(bufpool.StrayAccessError) as caught:
        bufpool.check()
    assert (caught.value.report.page, caught.value.report.offset) == (3, 7)
    assert caught.value.report.python_stack == ()
    bufpool.check()


CALLS: dict[str, Callable[[bufpool.Pool], object]] = {
    "allocate": lambda pool: pool.allocate(b"x"),
    "allocate_at": lambda pool: pool.allocate_at(9),
    "allocate_many": lambda pool: pool.allocate_many(3),
    "free": lambda pool: pool.free(0),
    "free_many": lambda pool: pool.free_many([0]),
    "evict": lambda pool: pool.evict(0),
    "evict_many": lambda pool: pool.evict_many([0]),
    "populate": lambda pool: pool.populate(1),
    "populate_many": lambda pool: pool.populate_many([1]),
    "pages": lambda pool: pool.pages(),
    "stats": lambda pool: pool.stats(),
    "read": lambda pool: pool.page(0)[0],
    "read slice": lambda pool: pool.page(0)[:5],
    "write": lambda pool: pool.page(0).__setitem__(0, 1),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_any_call_raises_what_is_owed_and_does_nothing_else(any_pool: bufpool.Pool, call: Any) -> None:
    any_pool.allocate_many(2, b"0" * PAGE * 2)
    any_pool.evict(1)
    before = any_pool.stats()
    stray(any_pool)
    with pytest.raises(bufpool.StrayAccessError):
        call(any_pool)
    after = any_pool.stats()
    for counter in ("allocations", "frees", "evictions", "populates"):
        assert getattr(before, counter) == getattr(after, counter)
    assert any_pool.page(0)[0] == ord("0")
    call(any_pool)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_inside_catch_faults_any_call_works(any_pool: bufpool.Pool, call: Any) -> None:
    any_pool.allocate_many(2)
    any_pool.evict(1)
    with bufpool.catch_faults() as caught:
        stray(any_pool)
        call(any_pool)
    assert [(report.page, report.offset) for report in caught.reports] == [(3, 7)]


def test_catch_faults_collects_guarded_access_and_views_in_order(pool: bufpool.Pool) -> None:
    page = pool.page(3)
    with bufpool.catch_faults() as caught:
        assert page[1] == bufpool.POISON
        assert page.buffer[2] == bufpool.POISON
        assert page[3:6] == POISON * 3
        page[4] = 1
        page.array()[5] = 1
        assert page[100:90:-2] == POISON * 5
    assert [report.access for report in caught.reports] == ["read", "read", "read", "write", "write", "read"]
    assert [report.offset for report in caught.reports[:2]] == [1, 2]
    assert [report.sequence for report in caught.reports] == sorted({report.sequence for report in caught.reports})
    pool.allocate_at(3)
    assert bytes(page) == bytes(PAGE)


def test_what_was_owed_before_the_block_is_raised_on_entry(any_pool: bufpool.Pool) -> None:
    stray(any_pool)
    with pytest.raises(bufpool.StrayAccessError), bufpool.catch_faults():
        pytest.fail("the block was entered")
    with pytest.raises(bufpool.StrayAccessError):  # and the block that was not entered catches nothing
        any_pool.page(0)[0]


def test_catch_faults_nests(any_pool: bufpool.Pool) -> None:
    with bufpool.catch_faults() as outer:
        stray(any_pool, 1)
        with bufpool.catch_faults() as inner:
            stray(any_pool, 2)
        stray(any_pool, 3)
    assert [report.page for report in outer.reports] == [1, 3]
    assert [report.page for report in inner.reports] == [2]


def test_catch_faults_lets_exceptions_through(any_pool: bufpool.Pool) -> None:
    with pytest.raises(KeyError), bufpool.catch_faults() as caught:  # noqa: PT012
        stray(any_pool)
        raise KeyError
    assert len(caught.reports) == 1


def test_catch_faults_is_of_one_thread(any_pool: bufpool.Pool, in_thread: Any) -> None:
    def other() -> int:
        with pytest.raises(bufpool.StrayAccessError):
            any_pool.page(1)[0]
        stray(any_pool, 2)
        with pytest.raises(bufpool.StrayAccessError):
            bufpool.check()
        return threading.get_native_id()

    with bufpool.catch_faults() as caught:
        assert in_thread(other) != threading.get_native_id()
        stray(any_pool, 3)
    assert [report.page for report in caught.reports] == [3]


def test_a_block_ends_in_the_thread_where_it_began(any_pool: bufpool.Pool, in_thread: Any) -> None:
    def other() -> None:
        stray(any_pool, 2)
        with pytest.raises(bufpool.BufpoolError, match="was entered in another thread"):
            caught.__exit__(None, None, None)
        with pytest.raises(bufpool.StrayAccessError):
            bufpool.check()

    with bufpool.catch_faults() as caught:
        in_thread(other)
        stray(any_pool, 3)
    assert [report.page for report in caught.reports] == [3]


DATA_CALLS: dict[str, Callable[[bufpool.Pool, Any], object]] = {
    "allocate": lambda pool, data: bytes(pool.allocate(data)),
    "allocate_at": lambda pool, data: bytes(pool.allocate_at(9, data)),
    "allocate_many": lambda pool, data: bytes(pool.page(int(pool.allocate_many(1, data)[0]))),
    "populate": lambda pool, data: pool.populate(1, data) or bytes(pool.page(1)),
    "populate_many": lambda pool, data: pool.populate_many([1], data) or bytes(pool.page(1)),
}


@pytest.mark.parametrize("call", DATA_CALLS.values(), ids=DATA_CALLS.keys())
def test_data_in_a_hole(pool: bufpool.Pool, make_pool: PoolMaker, call: Any) -> None:
    source = make_pool(memory=pool.memory, trap=pool.trap)
    data = source.page(5).buffer
    pool.allocate_many(2)
    pool.evict(1)
    with pytest.raises(bufpool.StrayAccessError) as error:
        call(pool, data)
    assert (error.value.report.pool, error.value.report.page) == (source.name, 5)
    assert error.value.report.access == "read"
    assert pool.stats().allocated == 1
    with bufpool.catch_faults() as caught:
        assert call(pool, data) == POISON * PAGE
    assert [report.page for report in caught.reports] == [5]


def test_data_half_in_a_hole(pool: bufpool.Pool, make_pool: PoolMaker) -> None:
    source = make_pool(memory=pool.memory, trap=pool.trap)
    kept = [source.allocate_at(number, bytes([number]) * PAGE) for number in (0, 2, 4)]
    whole = np.lib.stride_tricks.as_strided(source.page(0).array(), (5 * PAGE,), (1,))
    with bufpool.catch_faults() as caught:
        numbers = pool.allocate_many(5, whole)
    assert [report.page for report in caught.reports] == [1, 3]
    for page in kept:
        assert bytes(pool.page(int(numbers[page.number]))) == bytes([page.number]) * PAGE
    for hole in (1, 3):
        assert bytes(pool.page(int(numbers[hole]))) == POISON * PAGE


def test_page_numbers_in_a_hole(any_pool: bufpool.Pool) -> None:
    numbers = any_pool.page(5).array(np.uint64)
    for call in (any_pool.free_many, any_pool.evict_many, any_pool.populate_many):
        with pytest.raises(bufpool.StrayAccessError) as caught:
            call(numbers)
        assert [report.page for report in caught.value.reports] == [5]
    bufpool.check()


def test_leaving_the_with_block_raises_what_is_owed(make_pool: PoolMaker, kind: bufpool.Capability) -> None:
    with pytest.raises(bufpool.StrayAccessError), make_pool(memory=kind.memory, trap=kind.trap) as pool:
        stray(pool)
    assert pool.closed


def test_close_raises_what_is_owed(pool: bufpool.Pool) -> None:
    stray(pool)
    with pytest.raises(bufpool.StrayAccessError):
        pool.close()
    assert pool.closed


def test_leaving_the_with_block_shows_what_is_owed_with_the_exception_on_its_way(make_pool: PoolMaker) -> None:
    with pytest.raises(KeyError) as caught, make_pool() as pool:  # noqa: PT012
        stray(pool)
        try:
            raise OSError("first")
        except OSError:
            raise KeyError("second") from None
    before = caught.value.__context__
    assert isinstance(before, bufpool.StrayAccessError)
    assert before.report.page == 3
    assert isinstance(before.__context__, OSError)
    assert not caught.value.__suppress_context__
    assert pool.closed


def test_a_chain_of_causes_ends_in_what_is_owed(make_pool: PoolMaker) -> None:
    with pytest.raises(KeyError) as caught, make_pool() as pool:  # noqa: PT012
        stray(pool)
        raise KeyError("second") from OSError("first")
    assert isinstance(caught.value.__cause__, OSError)
    assert isinstance(caught.value.__cause__.__context__, bufpool.StrayAccessError)


def test_faults_keeps_the_latest(pool: bufpool.Pool) -> None:
    assert pool.faults == ()
    with bufpool.catch_faults() as caught:
        for number in range(300):
            pool.page(number % 64)[number]
    assert pool.faults == caught.reports[-256:]
    assert pool.stats().faults == 300
    pool.close()
    assert pool.faults == caught.reports[-256:]


def test_fault_report(pool: bufpool.Pool) -> None:
    with bufpool.catch_faults() as caught:
        before = datetime.now(timezone.utc)
        pool.page(3)[8:9]
        stray(pool, 4, 9)
    guarded, viewed = caught.reports
    assert pool.faults == (guarded, viewed)
    assert (guarded.page_size, guarded.pid, guarded.thread_id) == (PAGE, os.getpid(), threading.get_native_id())
    assert timedelta(seconds=-1) < guarded.time - before < timedelta(minutes=5)
    assert guarded.allocated is guarded.freed is guarded.in_syscall is None
    assert not guarded.raced
    assert not guarded.forked
    assert viewed.pc
    assert viewed.native_stack
    assert "+0x" in viewed.native_stack[0]
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        guarded.page = 7  # type: ignore[misc]


def test_the_text_report(pool: bufpool.Pool) -> None:
    with bufpool.catch_faults() as caught:
        pool.page(3)[8] = 1
    text = str(caught.reports[0])
    for word in ("write", f"{pool.page(3).address + 8:x}", "page 3", "offset 8", "unallocated", pool.name, pool.trap):
        assert word in text
    assert "test_the_text_report" in text.splitlines()[-1]


def test_a_caller_without_a_name(any_pool: bufpool.Pool) -> None:
    for name in (None, 7):
        with pytest.raises(bufpool.StrayAccessError) as caught:
            exec("page[8]", {"__name__": name, "page": any_pool.page(3)})
        assert "<string>:1 in <module>" in caught.value.report.python_stack[-1]


def test_the_report_in_json(pool: bufpool.Pool) -> None:
    with bufpool.catch_faults() as caught:
        pool.page(3)[8] = 1
    [report] = caught.reports
    line = report.to_json()
    assert "\n" not in line
    fields = json.loads(line)
    assert (fields["page"], fields["offset"], fields["state"]) == (3, 8, "unallocated")
    assert fields["access"] == "write"
    assert fields["pool"] == pool.name or fields["pool"]["name"] == pool.name
