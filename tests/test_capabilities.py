"""What works here, and what `auto` makes of it."""

from __future__ import annotations

import os

import attrs
import pytest

import bufpool

CAPABILITIES = bufpool.capabilities()
TRAPS = ("noautofill", "uffd", "guard", "mprotect")
HUGE = ("thp", "hugetlb", "path")


def opened(entry: bufpool.Capability) -> bufpool.Pool:
    """A small pool of that kind."""
    memory = CAPABILITIES.path if entry.memory == "path" and CAPABILITIES.path else entry.memory
    return bufpool.Pool(
        "1 MiB" if entry.memory not in HUGE else "1 GiB", page_size=None, memory=memory, trap=entry.trap
    )


def test_every_pair_is_there_once_and_has_a_reason_when_not_available() -> None:
    pairs = [(entry.memory, entry.trap) for entry in CAPABILITIES.entries]
    assert len(pairs) == len(set(pairs))
    assert {memory for memory, _ in pairs} == {"anon", "shared", *HUGE}
    assert {trap for _, trap in pairs} == {*TRAPS, "none"}
    assert len(pairs) == 5 * 5
    for entry in CAPABILITIES.entries:
        assert entry.available == (entry.reason == "")
        assert entry.valid or not entry.available
        assert not entry.users or entry.users[0] == "one process"
        assert bool(entry.users) == (entry.valid and entry.trap != "none")


def test_what_is_available_opens_and_what_is_not_refuses_with_the_reason() -> None:
    for entry in CAPABILITIES.entries:
        if entry.available:
            with opened(entry) as pool:
                assert pool.trap == entry.trap
                assert pool.memory == (CAPABILITIES.path if entry.memory == "path" else entry.memory)
        else:
            with pytest.raises(bufpool.UnsupportedError):
                opened(entry)


def test_auto_takes_the_first_that_works() -> None:
    for memory, auto in CAPABILITIES.auto.items():
        valid = [trap for trap in TRAPS if CAPABILITIES.of(memory, trap).valid]
        works = [trap for trap in valid if CAPABILITIES.of(memory, trap).available]
        assert auto == (works[0] if works else None)
        if auto is not None:
            with opened(attrs.evolve(CAPABILITIES.of(memory, auto), trap="auto")) as pool:
                assert pool.trap == auto
                note = pool.stats().trap_note
            assert all(trap in note for trap in valid[: valid.index(auto)])
            assert (note == "") == (valid[0] == auto)


def test_auto_is_what_this_run_expects() -> None:
    expected = os.environ.get("BUFPOOL_EXPECT_AUTO", CAPABILITIES.auto["anon"])
    assert CAPABILITIES.auto["anon"] == expected


def test_facts_of_the_system() -> None:
    assert CAPABILITIES.kernel == os.uname().release
    assert CAPABILITIES.os_page_size == os.sysconf("SC_PAGE_SIZE")
    assert ("anon", CAPABILITIES.auto["anon"]) in CAPABILITIES.available()
    with pytest.raises(KeyError):
        CAPABILITIES.of("anon", "magic")
