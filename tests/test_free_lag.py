"""free_lag: a hypothesis state machine drives a pool whose freed pages lag against a model of the ring."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

import bufpool

PAGE = 4096
PAGES = 10
NUMBERS = st.integers(0, PAGES - 1)


class Model(RuleBasedStateMachine):
    """The content of each allocated page, and the ring: a slot a free, in turn; None: empty.

    A slot may name a page that lags no longer, or again by a later slot.
    """

    trap = ""
    pool: bufpool.Pool

    @initialize(length=st.integers(1, PAGES))
    def open(self, length: int) -> None:
        self.pool = bufpool.Pool(PAGES * PAGE, trap=self.trap, free_lag=length)
        self.allocated: dict[int, bytes] = {}
        self.evicted: set[int] = set()
        self.lagging: set[int] = set()
        self.ring: list[int | None] = [None] * length
        self.begun = 0
        self.written = 0

    def teardown(self) -> None:
        if hasattr(self, "pool"):
            self.pool.close()

    def free_numbers(self) -> set[int]:
        return set(range(PAGES)) - self.allocated.keys() - self.evicted

    def content(self) -> bytes:
        self.written += 1
        return f"content {self.written}".encode()

    def oldest(self) -> int | None:
        """Of those that lag; it leaves the ring, and so do the slots before it."""
        if not self.lagging:  # nor is the ring looked at
            return None
        start = self.begun % len(self.ring)
        for at in [*range(start, len(self.ring)), *range(start)]:
            number, self.ring[at] = self.ring[at], None
            if number in self.lagging:
                self.lagging.remove(number)
                return number
        return None

    def given(self, number: int, content: bytes) -> None:
        oldest = self.oldest()
        assert number == oldest if oldest is not None else number in self.free_numbers()
        self.allocated[number] = content

    def freed(self, number: int) -> None:
        """It begins to lag; a page that is in its slot is zapped, and those of a quarter after that."""
        length = len(self.ring)
        slot = self.begun % length
        before, self.ring[slot] = self.ring[slot], number
        self.begun += 1
        self.lagging.add(number)
        if before is not None:
            others = [(slot + i) % length for i in range(1, length // 4)]
            self.lagging -= {before} | {self.ring[at] for at in others}  # type: ignore[arg-type]
            for at in others:
                self.ring[at] = None

    @rule(empty=st.booleans())
    def allocate(self, empty: bool) -> None:
        content = b"" if empty else self.content()
        if self.free_numbers():
            self.given(self.pool.allocate(content or None).number, content)
            return
        with pytest.raises(bufpool.PoolExhaustedError):
            self.pool.allocate(content)

    @rule(count=st.integers(2, PAGES))
    def allocate_many(self, count: int) -> None:
        if count <= len(self.free_numbers()):
            for number in self.pool.allocate_many(count).tolist():
                self.given(number, b"")

    @rule(number=NUMBERS)
    def allocate_at(self, number: int) -> None:
        if number in self.free_numbers():
            self.allocated[number] = self.content()
            self.pool.allocate_at(number, self.allocated[number])
            self.lagging.discard(number)

    @rule(number=NUMBERS)
    def publish(self, number: int) -> None:
        if number in self.free_numbers():
            content = self.content()
            frames = self.pool.stage(1)
            frames[0].buffer[:PAGE] = content.ljust(PAGE, b"\0")
            self.pool.publish(frames, [number])
            self.allocated[number] = content
            self.lagging.discard(number)

    @rule(number=NUMBERS)
    def free(self, number: int) -> None:
        if number in self.allocated:
            self.pool.free(number)
            del self.allocated[number]
            self.freed(number)
        elif number in self.evicted:
            self.pool.free(number)
            self.evicted.remove(number)
        else:
            with pytest.raises(bufpool.PageStateError):
                self.pool.free(number)

    @rule(numbers=st.lists(NUMBERS, unique=True))
    def free_many(self, numbers: list[int]) -> None:
        numbers = [number for number in numbers if number in self.allocated]
        self.pool.free_many(numbers)
        for at, number in enumerate(numbers):
            del self.allocated[number]
            if len(numbers) - at <= len(self.ring):  # those before are zapped at once
                self.freed(number)

    @rule(number=NUMBERS)
    def evict(self, number: int) -> None:
        if number in self.allocated:
            self.pool.evict(number)
            del self.allocated[number]
            self.evicted.add(number)

    @rule()
    def settle(self) -> None:
        self.pool.settle()
        if self.lagging:
            self.ring = [None] * len(self.ring)
        self.lagging.clear()

    @rule(number=NUMBERS)
    def stray(self, number: int) -> None:
        if number in self.free_numbers() - self.lagging:
            with pytest.raises(bufpool.StrayAccessError):
                _ = self.pool.page(number)[0]

    @invariant()
    def pool_and_model_agree(self) -> None:
        if not hasattr(self, "pool"):
            return
        assert self.pool.stats().lagging == len(self.lagging)
        assert self.pool.stats().allocated == len(self.allocated)
        for number, content in self.allocated.items():
            assert self.pool.page(number)[0:PAGE] == content.ljust(PAGE, b"\0")
        for number in self.lagging:
            assert self.pool.page(number).state == "freed"
        found = self.pool.inspect()
        assert found.clean
        assert found.lagging == len(self.lagging)


def test_free_lag_against_the_model(trap: str) -> None:
    machine = type("Machine", (Model,), {"trap": trap})
    options = settings(
        max_examples=60, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    run_state_machine_as_test(machine, settings=options)


def test_a_frame_is_used_again_and_settled() -> None:
    with bufpool.Pool(16 * PAGE, free_lag=4) as pool:
        page = pool.allocate(b"a row")
        page.free()
        assert page[0:5] == b"a row"  # not a trap, yet
        assert (pool.stats().lagging, page.state) == (1, "freed")
        assert pool.explain(page.address, 1) is not None
        assert pool.allocate()[0:5] == bytes(5)
        assert (pool.stats().lagging, pool.stats().lag_reused) == (0, 1)
        page.free()
        pool.settle()
        with pytest.raises(bufpool.StrayAccessError):
            _ = page[0]
    with pytest.raises(bufpool.PoolClosedError):
        pool.settle()


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"free_lag": -1}, bufpool.ArgumentError, "free_lag -1 must be from 0, for none, to 18446744073709551615"),
        ({"free_lag": 2**64}, bufpool.ArgumentError, "free_lag 18446744073709551616 must be"),
        ({"free_lag": "4"}, TypeError, "free_lag"),
        ({"memory": "shared"}, bufpool.UnsupportedError, 'take memory "anon" or "thp", or free_lag 0'),
        ({"pins": "count"}, bufpool.UnsupportedError, 'take pins "off", or free_lag 0'),
        ({"audit": "checksum"}, bufpool.UnsupportedError, 'take audit "off", or free_lag 0'),
        ({"sample": 2}, bufpool.UnsupportedError, "take sample 0, or free_lag 0"),
        ({"quarantine": PAGE}, bufpool.UnsupportedError, "quarantine, in which a freed number rests"),
        ({"lazy_zero": True}, bufpool.UnsupportedError, "no frame to keep"),
    ],
)
def test_refused(given: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        bufpool.Pool(16 * PAGE, **{"free_lag": 4, **given})


@pytest.mark.parametrize(
    ("options", "given", "lagging"),
    [
        ("free_lag=4", {}, 1),
        ("free_lag=4", {"memory": "shared"}, 0),
        ("free_lag=4", {"pins": "count"}, 0),
        ("free_lag=4", {"quarantine": PAGE}, 0),
        ("free_lag=4", {"lazy_zero": True}, 0),
        ("preset=test:free_lag=4", {}, 1),
        ("preset=production", {"free_lag": 4}, 1),
        ("preset=production:free_lag=4", {}, 1),
    ],
)
def test_as_an_option_it_gives_way_and_others_to_it(options: str, given: dict[str, Any], lagging: int) -> None:
    bufpool.configure(options)
    try:
        with bufpool.Pool(16 * PAGE, **given) as pool:
            pool.allocate().free()
            assert pool.stats().lagging == lagging
    finally:
        bufpool.configure("")
