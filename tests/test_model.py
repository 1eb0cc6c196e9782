"""A hypothesis state machine drives Pool against a model: a dictionary of page states and contents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

import bufpool

PAGE = 4096
PAGES = 12
NUMBERS = st.integers(0, PAGES - 1)
BATCHES = st.lists(NUMBERS, max_size=PAGES)
DATA = st.one_of(st.none(), st.binary(max_size=40), st.integers(0, 255).map(lambda byte: bytes([byte]) * PAGE))
OFFSETS = st.sampled_from([0, 1, 2047, PAGE - 1])


def filled(data: bytes | None) -> bytes:
    return (data or b"").ljust(PAGE, b"\0")


class Model(RuleBasedStateMachine):
    memory = trap = ""

    def __init__(self) -> None:
        super().__init__()
        self.pool = bufpool.Pool(PAGES * PAGE, memory=self.memory, trap=self.trap)
        self.states = ["unallocated"] * PAGES
        self.content: dict[int, bytes] = {}
        self.faults = 0

    def teardown(self) -> None:
        self.pool.close()

    def free_numbers(self) -> list[int]:
        return [number for number, state in enumerate(self.states) if state in ("unallocated", "freed")]

    def put(self, number: int, data: bytes | None) -> None:
        self.states[number] = "allocated"
        self.content[number] = filled(data)

    def take(self, number: int, state: str) -> None:
        self.states[number] = state
        self.content.pop(number, None)

    def attempt(self, allowed: bool, call: Callable[[], Any], error: type[Exception] = bufpool.PageStateError) -> bool:
        """Does it when the model allows it; else it must be refused."""
        if allowed:
            call()
        else:
            with pytest.raises(error):
                call()
        return allowed

    @rule(data=DATA)
    def allocate(self, data: bytes | None) -> None:
        free = self.free_numbers()
        if self.attempt(bool(free), lambda: free.append(self.pool.allocate(data).number), bufpool.PoolExhaustedError):
            number = free.pop()
            assert number in free
            self.put(number, data)

    @rule(count=st.integers(0, PAGES + 1), seed=st.one_of(st.none(), st.integers(0, 255)))
    def allocate_many(self, count: int, seed: int | None) -> None:
        free = self.free_numbers()
        data = None if seed is None else b"".join(bytes([(seed + i) % 256]) * PAGE for i in range(count))
        numbers: list[int] = []
        allowed = count <= len(free)
        call = lambda: numbers.extend(self.pool.allocate_many(count, data).tolist())  # noqa: E731
        if self.attempt(allowed, call, bufpool.PoolExhaustedError):
            assert len(set(numbers)) == count
            assert set(numbers) <= set(free)
            for index, number in enumerate(numbers):
                self.put(number, data and data[index * PAGE : (index + 1) * PAGE])

    @rule(number=NUMBERS, data=DATA)
    def allocate_at(self, number: int, data: bytes | None) -> None:
        if self.attempt(number in self.free_numbers(), lambda: self.pool.allocate_at(number, data)):
            self.put(number, data)

    @rule(number=NUMBERS)
    def free(self, number: int) -> None:
        if self.attempt(self.states[number] in ("allocated", "evicted"), lambda: self.pool.free(number)):
            self.take(number, "freed")

    @rule(number=NUMBERS)
    def evict(self, number: int) -> None:
        if self.attempt(self.states[number] == "allocated", lambda: self.pool.page(number).evict()):
            self.take(number, "evicted")

    @rule(number=NUMBERS, data=DATA)
    def populate(self, number: int, data: bytes | None) -> None:
        if self.attempt(self.states[number] == "evicted", lambda: self.pool.populate(number, data)):
            self.put(number, data)

    def batch_allowed(self, numbers: list[int], *states: str) -> bool:
        return len(set(numbers)) == len(numbers) and all(self.states[number] in states for number in numbers)

    @rule(numbers=BATCHES, array=st.booleans())
    def free_many(self, numbers: list[int], array: bool) -> None:
        pages = np.array(numbers, np.int32) if array else [self.pool.page(number) for number in numbers]
        if self.attempt(self.batch_allowed(numbers, "allocated", "evicted"), lambda: self.pool.free_many(pages)):
            for number in numbers:
                self.take(number, "freed")

    @rule(numbers=BATCHES)
    def evict_many(self, numbers: list[int]) -> None:
        if self.attempt(self.batch_allowed(numbers, "allocated"), lambda: self.pool.evict_many(numbers)):
            for number in numbers:
                self.take(number, "evicted")

    @rule(some=BATCHES, seed=st.one_of(st.none(), st.integers(0, 255)), evicted=st.booleans())
    def populate_many(self, some: list[int], seed: int | None, evicted: bool) -> None:
        numbers = [number for number in dict.fromkeys(some) if self.states[number] == "evicted"] if evicted else some
        data = None if seed is None else b"".join(bytes([(seed + i) % 256]) * PAGE for i in range(len(numbers)))
        if self.attempt(self.batch_allowed(numbers, "evicted"), lambda: self.pool.populate_many(numbers, data)):
            for index, number in enumerate(numbers):
                self.put(number, data and data[index * PAGE : (index + 1) * PAGE])

    @rule(number=NUMBERS, offset=OFFSETS, byte=st.integers(0, 255))
    def write(self, number: int, offset: int, byte: int) -> None:
        page = self.pool.page(number)
        call = lambda: page.__setitem__(offset, byte)  # noqa: E731
        if self.attempt(self.states[number] == "allocated", call, bufpool.StrayAccessError):
            content = self.content[number]
            self.content[number] = content[:offset] + bytes([byte]) + content[offset + 1 :]
        else:
            self.expect(self.pool.faults[-1], "write", number, offset)

    @rule(number=NUMBERS, offset=OFFSETS, byte=st.one_of(st.none(), st.integers(0, 255)))
    def use_a_view(self, number: int, offset: int, byte: int | None) -> None:
        view = self.pool.page(number).buffer
        stray = self.states[number] != "allocated"
        with bufpool.catch_faults() as caught:
            if byte is None:
                assert view[offset] == (bufpool.POISON if stray else self.content[number][offset])
            else:
                view[offset] = byte
        assert len(caught.reports) == stray
        if stray:
            self.expect(caught.reports[0], "read" if byte is None else "write", number, offset)
        elif byte is not None:
            content = self.content[number]
            self.content[number] = content[:offset] + bytes([byte]) + content[offset + 1 :]

    def expect(self, report: bufpool.FaultReport, access: str, number: int, offset: int) -> None:
        self.faults += 1
        found = (report.access, report.page, report.offset, report.state, report.address)
        assert found == (access, number, offset, self.states[number], self.pool.page(number).address + offset)

    @invariant()
    def pool_and_model_agree(self) -> None:
        assert [self.pool.state(number) for number in range(PAGES)] == self.states
        for state in ("allocated", "evicted", "freed"):
            assert self.pool.pages(state).tolist() == [n for n in range(PAGES) if self.states[n] == state]
        for number, content in self.content.items():
            assert bytes(self.pool.page(number)) == content
        stats = self.pool.stats()
        assert (stats.allocated, stats.evicted) == (self.states.count("allocated"), self.states.count("evicted"))
        assert (stats.faults, stats.scratched) == (self.faults, 0)


def test_pool_against_the_model(kind: bufpool.Capability) -> None:
    machine = type("Machine", (Model,), {"memory": kind.memory, "trap": kind.trap})
    options = settings(
        max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    run_state_machine_as_test(machine, settings=options)
