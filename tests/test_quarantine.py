"""Quarantine: a hypothesis state machine drives a pool whose freed numbers rest against a model of the ring."""

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
    memory = trap = ""
    pool: bufpool.Pool

    @initialize(length=st.integers(1, PAGES))
    def open(self, length: int) -> None:
        self.pool = bufpool.Pool(PAGES * PAGE, memory=self.memory, trap=self.trap, quarantine=length * PAGE)
        self.free_numbers = set(range(PAGES))  # those that rest, too
        self.ring: list[int | None] = [None] * length
        self.begun = 0

    def teardown(self) -> None:
        if hasattr(self, "pool"):
            self.pool.close()

    def resting(self) -> list[int]:
        """The oldest first."""
        at = self.begun % len(self.ring)
        return [number for number in self.ring[at:] + self.ring[:at] if number is not None]

    def leave(self, number: int) -> None:
        self.ring = [None if number == other else other for other in self.ring]

    def given(self, number: int) -> None:
        """Of those that do not rest, or else the one that has rested longest."""
        resting = self.resting()
        rested = self.free_numbers.difference(resting)
        assert number in rested if rested else number == resting[0]
        self.free_numbers.remove(number)
        self.leave(number)

    @rule(count=st.integers(0, PAGES + 1))
    def allocate(self, count: int) -> None:
        if count <= len(self.free_numbers):
            numbers = [self.pool.allocate().number] if count == 1 else self.pool.allocate_many(count).tolist()
            for number in numbers:
                self.given(number)
            return
        with pytest.raises(bufpool.PoolExhaustedError):
            self.pool.allocate_many(count)
        if count <= PAGES:  # tried, and all rests were cut short for it
            self.ring = [None] * len(self.ring)

    @rule(number=NUMBERS)
    def allocate_at(self, number: int) -> None:
        if number in self.free_numbers:
            self.pool.allocate_at(number)
            self.free_numbers.remove(number)
            self.leave(number)

    @rule(numbers=st.lists(NUMBERS, unique=True), evict=st.booleans())
    def free(self, numbers: list[int], evict: bool) -> None:
        numbers = [number for number in numbers if number not in self.free_numbers]
        if evict:
            self.pool.evict_many(numbers)
        if len(numbers) == 1:
            self.pool.free(numbers[0])
        else:
            self.pool.free_many(numbers)
        for number in numbers:
            self.free_numbers.add(number)
            self.ring[self.begun % len(self.ring)] = number
            self.begun += 1

    @rule(number=NUMBERS)
    def stray(self, number: int) -> None:
        if number in self.free_numbers:
            with bufpool.catch_faults() as caught:
                assert self.pool.page(number).buffer[0] == bufpool.POISON
            assert [report.page for report in caught.reports] == [number]

    @invariant()
    def pool_and_model_agree(self) -> None:
        if not hasattr(self, "pool"):
            return
        assert self.pool.stats().quarantined == len(self.resting())
        assert self.pool.stats().allocated == PAGES - len(self.free_numbers)
        assert not self.pool.inspect().wrong


def test_quarantine_against_the_model(kind: bufpool.Capability) -> None:
    machine = type("Machine", (Model,), {"memory": kind.memory, "trap": kind.trap})
    options = settings(
        max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    run_state_machine_as_test(machine, settings=options)


@pytest.mark.parametrize(
    ("quarantine", "resting"), [(0, 0), (1, 1), ("8 KiB", 2), ("8193 B", 3), ("16 TiB", 4), (2**64 - 1, 4)]
)
def test_sizes(quarantine: Any, resting: int) -> None:
    with bufpool.Pool(4 * PAGE, quarantine=quarantine) as pool:
        pool.free_many(pool.allocate_many(4))
        assert pool.stats().quarantined == resting


@pytest.mark.parametrize(
    ("quarantine", "error", "message"),
    [
        (-1, bufpool.ArgumentError, "quarantine -1 must be 0, for none, or more"),
        (2**64, bufpool.ArgumentError, "quarantine 18446744073709551616 must be"),
        ("much", bufpool.ArgumentError, "quarantine 'much' is not a size"),
        (None, TypeError, "quarantine must be bytes as an integer, or text"),
        (False, TypeError, "quarantine must be bytes as an integer, or text"),
    ],
)
def test_refused(quarantine: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        bufpool.Pool(PAGE, quarantine=quarantine)


def test_a_stray_to_a_number_that_rests_meets_a_hole() -> None:
    with bufpool.Pool(16 * PAGE, quarantine="64 KiB", provenance="last") as pool:
        old = pool.allocate(b"a row")
        old.free()
        assert old.number not in [pool.allocate().number for _ in range(12)]
        with pytest.raises(bufpool.StrayAccessError) as caught:
            _ = old[0]
        assert caught.value.report.state == "freed"


def test_the_rest_is_over_when_as_many_bytes_are_freed() -> None:
    with bufpool.Pool(3 * PAGE, quarantine=PAGE) as pool:
        first, second, _ = (pool.allocate() for _ in range(3))
        first.free()
        second.free()
        assert pool.allocate().number == first.number
