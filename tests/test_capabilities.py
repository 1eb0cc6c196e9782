"""What works here, and what `auto` makes of it."""

from __future__ import annotations

import os

import attrs
import pytest

import bufpool

TRAPS = ("noautofill", "uffd", "guard", "mprotect")
HUGE = ("thp", "hugetlb", "path")


@pytest.fixture(scope="module")
def found(_setting_kept: None) -> bufpool.Capabilities:
    """While no other test sets huge pages aside."""
    return bufpool.capabilities()


def opened(found: bufpool.Capabilities, entry: bufpool.Capability) -> bufpool.Pool:
    """A small pool of that kind."""
    memory = found.path if entry.memory == "path" and found.path else entry.memory
    return bufpool.Pool(
        "1 MiB" if entry.memory not in HUGE else "1 GiB", page_size=None, memory=memory, trap=entry.trap
    )


def test_every_pair_is_there_once_and_has_a_reason_when_not_available(found: bufpool.Capabilities) -> None:
    pairs = [(entry.memory, entry.trap) for entry in found.entries]
    assert len(pairs) == len(set(pairs))
    assert {memory for memory, _ in pairs} == {"anon", "shared", *HUGE}
    assert {trap for _, trap in pairs} == {*TRAPS, "none"}
    assert len(pairs) == 5 * 5
    for entry in found.entries:
        assert entry.available == (entry.reason == "")
        assert entry.valid or not entry.available
        assert not entry.users or entry.users[0] == "one process"
        assert bool(entry.users) == (entry.valid and entry.trap != "none")


def test_what_is_available_opens_and_what_is_not_refuses_with_the_reason(found: bufpool.Capabilities) -> None:
    for entry in found.entries:
        if entry.available:
            with opened(found, entry) as pool:
                assert pool.trap == entry.trap
                assert pool.memory == (found.path if entry.memory == "path" else entry.memory)
        else:
            with pytest.raises(bufpool.UnsupportedError):
                opened(found, entry)


def test_auto_takes_the_first_that_works(found: bufpool.Capabilities) -> None:
    for memory, auto in found.auto.items():
        valid = [trap for trap in TRAPS if found.of(memory, trap).valid]
        works = [trap for trap in valid if found.of(memory, trap).available]
        assert auto == (works[0] if works else None)
        if auto is not None:
            with opened(found, attrs.evolve(found.of(memory, auto), trap="auto")) as pool:
                assert pool.trap == auto
                note = pool.stats().trap_note
            assert all(trap in note for trap in valid[: valid.index(auto)])
            assert (note == "") == (valid[0] == auto)


def test_auto_is_what_this_run_expects(found: bufpool.Capabilities) -> None:
    expected = os.environ.get("BUFPOOL_EXPECT_AUTO", found.auto["anon"])
    assert found.auto["anon"] == expected


def test_facts_of_the_system(found: bufpool.Capabilities) -> None:
    assert found.kernel == os.uname().release
    assert found.os_page_size == os.sysconf("SC_PAGE_SIZE")
    assert ("anon", found.auto["anon"]) in found.available()
    with pytest.raises(KeyError):
        found.of("anon", "magic")
