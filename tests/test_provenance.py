"""Who allocated and who freed a page: Page.history and the events in reports."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

import bufpool

PAGE = 4096
TICK = timedelta(microseconds=70)


@pytest.fixture
def last(make_pool: Any, kind: bufpool.Capability) -> bufpool.Pool:
    """A pool of every kind that records who and when."""
    made: bufpool.Pool = make_pool(memory=kind.memory, trap=kind.trap, provenance="last")
    return made


@pytest.fixture
def stacks(make_pool: Any) -> bufpool.Pool:
    """A pool that records stacks."""
    made: bufpool.Pool = make_pool(provenance="stacks", name="stacks")
    return made


def allocate_here(pool: bufpool.Pool) -> bufpool.Page:
    return pool.allocate(b"a row")


def free_there(page: bufpool.Page) -> None:
    page.free()


def test_off_is_the_default_and_records_nothing(any_pool: bufpool.Pool) -> None:
    page = any_pool.allocate()
    page.free()
    assert (any_pool.provenance, any_pool.stats().provenance) == ("off", "off")
    assert page.history == bufpool.PageHistory(allocated=None, freed=None)
    with pytest.raises(bufpool.StrayAccessError) as caught:
        page[0]
    assert (caught.value.report.allocated, caught.value.report.freed) == (None, None)


def test_a_report_has_both_events(last: bufpool.Pool, in_thread: Callable[[Callable[[], Any]], Any]) -> None:
    before = datetime.now(timezone.utc)
    page = last.allocate()
    freer = in_thread(lambda: (page.free(), threading.get_native_id())[1])
    with pytest.raises(bufpool.StrayAccessError) as caught:
        page[9]
    report = caught.value.report
    assert report.allocated is not None
    assert report.freed is not None
    assert (report.allocated.event, report.allocated.sequence) == ("allocate", 1)
    assert (report.freed.event, report.freed.sequence) == ("free", 2)
    assert report.allocated.thread_id == threading.get_native_id()
    assert report.freed.thread_id == freer
    assert report.allocated.pid == report.freed.pid == report.pid
    assert before - TICK <= report.allocated.time <= report.freed.time + TICK
    assert report.freed.time <= report.time + TICK
    assert page.history.freed is not None
    assert page.history.freed.sequence == report.freed.sequence
    assert "  freed by thread" in str(report)
    assert "  allocated by thread" in str(report)


def test_a_report_has_the_python_stacks(stacks: bufpool.Pool) -> None:
    page = allocate_here(stacks)
    free_there(page)
    with pytest.raises(bufpool.StrayAccessError) as caught:
        page[0]
    report = caught.value.report
    assert report.allocated is not None
    assert report.freed is not None
    assert report.allocated.python_stack[-1].endswith("in allocate_here")
    assert report.freed.python_stack[-1].endswith("in free_there")
    assert report.freed.python_stack[-1].startswith(__file__)
    assert not any("/bufpool/pool.py" in line for line in report.freed.python_stack)
    assert "in free_there" in str(report)
    assert "in free_there" in str(report.freed)
    assert 1 <= len(report.freed.native_stack) <= 8
    assert all("+0x" in place for place in report.freed.native_stack)


def test_a_deep_stack_keeps_its_inner_lines(stacks: bufpool.Pool) -> None:
    def descend(depth: int) -> bufpool.Page:
        return descend(depth - 1) if depth else allocate_here(stacks)

    event = descend(50).history.allocated
    assert event is not None
    assert event.python_stack[-1].endswith("in allocate_here")
    assert all(line.startswith(__file__) for line in event.python_stack)
    assert sum(len(line) + 1 for line in event.python_stack) <= 512


def test_every_call_names_its_caller(stacks: bufpool.Pool) -> None:
    def line_of(event: bufpool.PageEvent | None) -> int:
        assert event is not None
        assert event.python_stack[-1].endswith("in test_every_call_names_its_caller")
        return int(event.python_stack[-1].rpartition(":")[2].partition(" ")[0])

    page = stacks.allocate_at(3)
    assert line_of(page.history.allocated) == sys._getframe().f_lineno - 1
    page.evict()
    evicted = line_of(page.history.freed)
    page.populate(b"x")
    assert line_of(page.history.allocated) == evicted + 2
    numbers = stacks.allocate_many(4)
    stacks.evict_many(numbers)
    stacks.populate_many(numbers)
    stacks.free_many(numbers)
    history = stacks.history(int(numbers[3]))
    assert line_of(history.allocated) == line_of(history.freed) - 1
    assert history.freed is not None
    assert history.freed.event == "free"


def test_the_closing_is_an_event(stacks: bufpool.Pool) -> None:
    page = stacks.allocate()

    def shut_down() -> None:
        stacks.close()

    shut_down()
    freed = page.history.freed
    assert freed is not None
    assert freed.event == "close"
    assert freed.python_stack[-1].endswith("in shut_down")


def test_neighbours(last: bufpool.Pool) -> None:
    for number in (3, 4, 5):
        last.allocate_at(number)
    last.free(4)
    with pytest.raises(bufpool.StrayAccessError) as caught:
        last.page(4)[16]
    assert (caught.value.report.below, caught.value.report.above) == (3, 5)
    assert "16 bytes past the end of page 3; 4080 bytes before page 5, which are allocated" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"provenance": "all"}, 'unknown provenance "all": valid are "off", "last", "stacks"'),
        ({"provenance": "stacks", "provenance_depth": 17}, "provenance_depth is 17"),
        ({"provenance": "stacks", "provenance_depth": 0}, "provenance_depth 0 must be from 1 to 16"),
        ({"provenance": "stacks", "provenance_depth": -1}, "provenance_depth -1 must be from 1 to 16"),
        ({"provenance": "last", "provenance_depth": 3}, 'goes with provenance "stacks"'),
    ],
)
def test_what_is_wrong_is_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(bufpool.ArgumentError, match=sentence):
        bufpool.Pool(PAGE, **options)


def test_wrong_types_are_refused() -> None:
    with pytest.raises(TypeError, match="provenance must be text"):
        bufpool.Pool(PAGE, provenance=True)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="provenance_depth must be an integer"):
        bufpool.Pool(PAGE, provenance="stacks", provenance_depth="8")  # type: ignore[arg-type]


class Histories(RuleBasedStateMachine):
    """Whatever is done to a pool: each page's history is what was done to it last."""

    taken = Bundle("taken")
    evicted = Bundle("evicted")

    def __init__(self) -> None:
        super().__init__()
        self.pool = bufpool.Pool(32 * PAGE, provenance="last")
        self.sequence = 0
        self.allocated: dict[int, tuple[str, int]] = {}
        self.freed: dict[int, tuple[str, int]] = {}

    def note(self, events: dict[int, tuple[str, int]], event: str, *numbers: int) -> None:
        self.sequence += 1
        events.update(dict.fromkeys(numbers, (event, self.sequence)))

    @rule(target=taken)
    def allocate(self) -> int:
        try:
            number = self.pool.allocate().number
        except bufpool.PoolExhaustedError:
            return -1
        self.note(self.allocated, "allocate", number)
        return number

    @rule(target=taken, number=consumes(evicted))
    def populate(self, number: int) -> int:
        if number >= 0:
            self.pool.populate(number)
            self.note(self.allocated, "populate", number)
        return number

    @rule(target=evicted, number=consumes(taken))
    def evict(self, number: int) -> int:
        if number >= 0:
            self.pool.evict(number)
            self.note(self.freed, "evict", number)
        return number

    @rule(number=st.one_of(consumes(taken), consumes(evicted)))
    def free(self, number: int) -> None:
        if number >= 0:
            self.pool.free(number)
            self.note(self.freed, "free", number)

    @rule(count=st.integers(1, 5))
    def allocate_and_free_many(self, count: int) -> None:
        try:
            numbers = self.pool.allocate_many(count).tolist()
        except bufpool.PoolExhaustedError:
            return
        self.note(self.allocated, "allocate", *numbers)
        self.pool.free_many(numbers)
        self.note(self.freed, "free", *numbers)

    @rule(number=st.integers(0, 31))
    def refused(self, number: int) -> None:
        if self.pool.state(number) not in ("allocated", "evicted"):
            with pytest.raises(bufpool.PageStateError):
                self.pool.free(number)

    @invariant()
    def histories_are_what_was_done(self) -> None:
        for number in range(32):
            history = self.pool.history(number)
            for event, expected in ((history.allocated, self.allocated), (history.freed, self.freed)):
                found = None if event is None else (event.event, event.sequence)
                assert found == expected.get(number)

    def teardown(self) -> None:
        self.pool.close()


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=20, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize("mode", ["last", "stacks"])
def test_a_forked_child_is_named(make_pool: Any, mode: str) -> None:
    entry = bufpool.capabilities().of("shared", "uffd")
    if not entry.available:
        pytest.skip(f"shared-uffd: {entry.reason}")
    pool = make_pool(memory="shared", trap="uffd", provenance=mode)
    page = pool.allocate(b"a row")
    page.free()
    pool.allocate_at(page.number)
    child = os.fork()
    if child == 0:
        pool.page(page.number).free()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    with pytest.raises(bufpool.StrayAccessError) as caught:
        page[0]
    freed = caught.value.report.freed
    assert freed is not None
    assert (freed.pid, freed.thread_id, freed.sequence) == (child, child, 4)
    assert freed.process_name == freed.thread_name == caught.value.report.process_name != ""
    assert f" of process {child}" in str(freed)
    assert f"of process {child}" in str(caught.value.report)
    named = [frame for frame in freed.python_stack if frame.endswith("in test_a_forked_child_is_named")]
    assert len(named) == (mode == "stacks")
