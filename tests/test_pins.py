"""Pins: page.pin() and what a pool makes of it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import bufpool

PAGES = 8


@pytest.fixture
def counted() -> Iterator[bufpool.Pool]:
    with bufpool.Pool("1 MiB", pins="count", provenance="stacks") as pool:
        yield pool


def test_off_does_nothing() -> None:
    with bufpool.Pool("1 MiB") as pool:
        with pool.page(3).pin(write=True) as page:
            assert page.state == "unallocated"
        page.unpin()
        assert (pool.stats().pins, pool.stats().pin_operations, pool.stats().pins_mode) == (0, 0, "off")


def test_a_with_block_pins(counted: bufpool.Pool) -> None:
    page = counted.allocate(b"data")
    with page.pin() as same, page.pin(write=True):
        assert same is page
        assert counted.stats().pins == 2
        with pytest.raises(bufpool.PageStateError, match=r"pinned \(1 read, 1 write\), last pinned by thread"):
            page.free()
    assert counted.stats().pins == 0
    page.free()


def test_plain_calls_pin(counted: bufpool.Pool) -> None:
    page = counted.allocate()
    page.pin()
    page.pin(write=True)
    page.unpin()
    with pytest.raises(bufpool.PageStateError, match="no read pin"):
        page.unpin(write=False)
    page.unpin(write=True)
    with pytest.raises(bufpool.PageStateError, match="has no pin"):
        page.unpin()


def test_many(counted: bufpool.Pool) -> None:
    numbers = counted.allocate_many(4)
    with counted.pin_many(numbers, write=True) as same:
        assert list(same) == list(numbers)
        with pytest.raises(bufpool.PageStateError):
            counted.free_many(numbers)
    with pytest.raises(bufpool.PageStateError, match="unallocated"):
        counted.pin_many([*numbers, 200])
    assert counted.stats().pins == 0
    counted.pin_many(numbers)
    counted.unpin_many(numbers)
    counted.free_many(numbers)


def test_misuse_names_the_page(counted: bufpool.Pool) -> None:
    with pytest.raises(bufpool.PageStateError, match=r"cannot pin page 5 of .* unallocated"):
        counted.page(5).pin()
    page = counted.allocate()
    page.evict()
    with pytest.raises(bufpool.PageStateError, match="evicted"):
        page.pin(write=True)


def test_an_error_says_from_where_another_thread_pinned(counted: bufpool.Pool) -> None:
    page = counted.allocate()

    def hold_the_page() -> None:
        page.pin(write=True)

    holder = threading.Thread(target=hold_the_page)
    holder.start()
    holder.join()
    for take in (page.free, page.evict):
        with pytest.raises(
            bufpool.PageStateError, match=r"(?s)\(0 read, 1 write\), last pinned by thread \d+ .*hold_the_page"
        ):
            take()
    page.unpin()
    page.free()


def test_a_pin_is_one_of_its_pool(counted: bufpool.Pool) -> None:
    with bufpool.Pool("1 MiB", pins="count", name="other") as other, counted.allocate().pin() as page:
        other.allocate_at(page.number)
        with pytest.raises(bufpool.PageStateError, match=rf'unpin page {page.number} of pool "other": it has no pin'):
            other.page(page.number).unpin()
        other.free(page.number)


@pytest.mark.parametrize("pins", ["count", "write", "all"])
def test_two_threads_upgrade_at_the_same_time(pins: str) -> None:
    with bufpool.Pool("1 MiB", pins=pins) as pool:  # type: ignore[arg-type]
        page = pool.allocate()
        both = threading.Barrier(2, timeout=100)
        failed: list[BaseException] = []

        def upgrade(at: int) -> None:
            try:
                for value in range(50):
                    with page.pin():
                        both.wait()
                        with page.pin(write=True):
                            both.wait()
                            page[at] = value
                        assert page[at] == value
                    both.wait()
            except BaseException as error:
                failed.append(error)
                both.abort()

        threads = [threading.Thread(target=upgrade, args=(at,)) for at in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        assert pool.stats().pins == 0


def test_history_has_the_python_stack(counted: bufpool.Pool) -> None:
    page = counted.allocate()
    assert counted.pin_history(page) == bufpool.PinHistory(pinned=None, unpinned=None)
    with page.pin():
        pass
    history = counted.pin_history(page)
    assert history.pinned is not None
    assert history.unpinned is not None
    assert (history.pinned.event, history.unpinned.event) == ("pin", "unpin")
    assert "test_history_has_the_python_stack" in history.unpinned.python_stack[-1]


def test_a_closed_pool_has_no_pins() -> None:
    pool = bufpool.Pool("1 MiB", pins="count")
    with pool.allocate().pin():
        pool.close()
    with pytest.raises(bufpool.PoolClosedError):
        pool.page(0).pin()


def test_unknown_pins() -> None:
    with pytest.raises(bufpool.ArgumentError, match='unknown pins "some"'):
        bufpool.Pool("1 MiB", pins="some")
    with pytest.raises(TypeError, match="pins must be text"):
        bufpool.Pool("1 MiB", pins=None)  # type: ignore[arg-type]


ENFORCED = [("anon", "uffd"), ("anon", "guard"), ("anon", "mprotect"), ("shared", "uffd"), ("shared", "guard")]


def enforced(memory: str, trap: str, pins: str, **options: str) -> bufpool.Pool:
    try:
        return bufpool.Pool("1 MiB", memory=memory, trap=trap, pins=pins, **options)  # type: ignore[arg-type]
    except bufpool.UnsupportedError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(("memory", "trap"), ENFORCED)
def test_all_closes_what_is_not_pinned(memory: str, trap: str) -> None:
    with enforced(memory, trap, "all", provenance="stacks") as pool:
        page = pool.allocate(b"data")
        with pytest.raises(bufpool.StrayAccessError) as caught:
            page[0]
        assert (caught.value.report.state, caught.value.report.access) == ("unpinned", "read")
        assert caught.value.report.freed is None
        with page.pin():
            assert page[:4] == b"data"
            with pytest.raises(bufpool.StrayAccessError) as caught:
                page[0] = 1
        report = caught.value.report
        assert (report.state, report.access, report.read_pins, report.write_pins) == ("read-only", "write", 1, 0)
        assert report.pinned is not None
        assert report.pinned.event == "pin"
        assert "test_all_closes_what_is_not_pinned" in report.pinned.python_stack[-1]
        assert "  pins: 1 for reading\n  pinned by thread " in str(report)
        with page.pin(write=True):
            page[:4] = b"next"
        with pytest.raises(bufpool.StrayAccessError) as caught:
            page[:4]
        report = caught.value.report
        assert report.pinned is None
        assert report.freed is not None
        assert report.freed.event == "unpin"
        assert "test_all_closes_what_is_not_pinned" in report.freed.python_stack[-1]
        assert "unpinned by thread" in str(report)
        with page.pin():
            assert page[:4] == b"next"


@pytest.mark.parametrize(("memory", "trap"), ENFORCED)
def test_write_closes_for_writing(memory: str, trap: str) -> None:
    with enforced(memory, trap, "write") as pool:
        page = pool.allocate(b"data")
        assert page[:4] == b"data"
        with pytest.raises(bufpool.StrayAccessError, match="read-only"):
            page[0] = 1
        with page.pin(write=True):
            page[0] = 1
        assert page[:4] == b"\x01ata"
        assert not pool.faults[-1].went_through


def test_a_stray_view_meets_the_pattern_and_leaves_the_data() -> None:
    with enforced("anon", "auto", "all") as pool:
        page = pool.allocate(b"data")
        view = page.buffer
        with page.pin():
            assert bytes(view[:4]) == b"data"
        assert view[0] == bufpool.POISON
        view[0] = 1
        with pytest.raises(bufpool.StrayAccessError, match="unpinned"):
            bufpool.check()
        with page.pin():
            assert bytes(view[:4]) == b"data"


def test_a_stray_write_to_what_others_read_goes_through_and_says_so() -> None:
    with enforced("anon", "auto", "write") as pool:
        page = pool.allocate(b"data")
        view = page.buffer
        with bufpool.catch_faults() as caught:
            view[0] = 1
        (report,) = caught.reports
        assert report.went_through
        assert "let through" in str(report)
        assert page[0] == 1
        with pytest.raises(bufpool.StrayAccessError):
            page[0] = 2


def test_what_is_owed_is_raised_when_the_block_ends() -> None:
    with enforced("anon", "auto", "all") as pool:
        one, other = pool.allocate(), pool.allocate()
        view = other.buffer
        with pytest.raises(bufpool.StrayAccessError), one.pin():
            view[0] = 1
        assert pool.stats().pins == 0  # unpinned all the same
        one.free()


def test_explain_names_what_is_closed() -> None:
    with enforced("anon", "auto", "all") as pool:
        page = pool.allocate()
        explanation = pool.explain(page.buffer)
        assert explanation is not None
        assert "unpinned" in str(explanation)
        with page.pin():
            assert pool.explain(page.buffer) is None


@pytest.mark.parametrize("pins", ["write", "all"])
def test_what_cannot_be_enforced_is_refused(pins: str) -> None:
    for options in ({"trap": "none"}, {"monitor": True}):
        with pytest.raises(bufpool.UnsupportedError, match=pins):
            bufpool.Pool("2 MiB", page_size=None, pins=pins, **options)  # type: ignore[arg-type]


def test_threads_keep_the_page(counted: bufpool.Pool) -> None:
    page = counted.allocate()
    pinned = threading.Barrier(5)

    def use() -> None:
        with page.pin():
            pinned.wait()
            pinned.wait()

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    pinned.wait()
    with pytest.raises(bufpool.PageStateError, match="4 read"):
        page.evict()
    pinned.wait()
    for thread in threads:
        thread.join()
    page.evict()


def test_a_child_has_the_pins_of_its_parent(counted: bufpool.Pool) -> None:
    page = counted.allocate()
    with page.pin():
        pid = os.fork()
        if pid == 0:
            os._exit(0 if counted.stats().pins == 1 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


class Pins(RuleBasedStateMachine):
    """Pins, states, and errors are those of a model of counts."""

    mode = "count"

    def __init__(self) -> None:
        super().__init__()
        self.pool = bufpool.Pool(PAGES * 4096, pins=self.mode, report_limit=1)
        self.reads: dict[int, int] = {}
        self.writes: dict[int, int] = {}

    @rule(number=st.integers(0, PAGES - 1))
    def allocate(self, number: int) -> None:
        if number in self.reads:
            with pytest.raises(bufpool.PageStateError):
                self.pool.allocate_at(number)
        else:
            self.pool.allocate_at(number)
            self.reads[number] = self.writes[number] = 0

    @rule(number=st.integers(0, PAGES - 1))
    def free(self, number: int) -> None:
        if number in self.reads and self.reads[number] + self.writes[number] == 0:
            self.pool.free(number)
            del self.reads[number], self.writes[number]
        else:
            with pytest.raises(bufpool.PageStateError):
                self.pool.free(number)

    @rule(number=st.integers(0, PAGES - 1), write=st.booleans())
    def pin(self, number: int, write: bool) -> None:
        if number in self.reads:
            self.pool.page(number).pin(write)
            (self.writes if write else self.reads)[number] += 1
        else:
            with pytest.raises(bufpool.PageStateError):
                self.pool.page(number).pin(write)

    @rule(number=st.integers(0, PAGES - 1), write=st.sampled_from([None, False, True]))
    def unpin(self, number: int, write: bool | None) -> None:
        reads = self.reads.get(number, 0)
        kind = (self.reads if reads else self.writes) if write is None else self.writes if write else self.reads
        if kind.get(number, 0):
            self.pool.page(number).unpin(write)
            kind[number] -= 1
        else:
            with pytest.raises(bufpool.PageStateError):
                self.pool.page(number).unpin(write)

    @rule(number=st.integers(0, PAGES - 1), write=st.booleans())
    def touch(self, number: int, write: bool) -> None:
        """Through a view, so that what strays is answered in place."""
        view = self.pool.page(number).buffer
        reads, writes = self.reads.get(number), self.writes.get(number)
        closed = {"count": False, "write": write and not writes, "all": not writes and (write or not reads)}[self.mode]
        expected = ["read-only" if reads or self.mode == "write" else "unpinned"] if closed else []
        if reads is None:
            expected = [self.pool.state(number)]
        with bufpool.catch_faults() as caught:
            if write:
                view[0] = number
            else:
                assert view[0] in (0, number, bufpool.POISON)
        assert [report.state for report in caught.reports] == expected

    @precondition(lambda self: self.reads)
    @rule(data=st.data())
    def pin_many(self, data: st.DataObject) -> None:
        numbers = data.draw(st.lists(st.sampled_from(sorted(self.reads)), max_size=4))
        with self.pool.pin_many(numbers):
            assert self.pool.stats().pins == sum(self.reads.values()) + sum(self.writes.values()) + len(numbers)

    @invariant()
    def agree(self) -> None:
        assert self.pool.stats().pins == sum(self.reads.values()) + sum(self.writes.values())

    def teardown(self) -> None:
        self.pool.close()


class WritePins(Pins):
    """The same, enforced for writing."""

    mode = "write"


class AllPins(Pins):
    """The same, enforced."""

    mode = "all"


TestPins = Pins.TestCase
TestWritePins = WritePins.TestCase
TestAllPins = AllPins.TestCase
TestPins.settings = TestWritePins.settings = TestAllPins.settings = settings(max_examples=40, deadline=None)
