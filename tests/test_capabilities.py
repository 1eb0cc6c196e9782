"""What works here, and what `auto` makes of it."""

from __future__ import annotations

import os

import pytest

import bufpool

CAPABILITIES = bufpool.capabilities()


def test_every_pair_is_there_once_and_has_a_reason_when_not_available() -> None:
    pairs = [(entry.memory, entry.trap) for entry in CAPABILITIES.entries]
    assert len(pairs) == len(set(pairs))
    assert {"anon", "shared"} <= {memory for memory, _ in pairs}
    assert {"uffd", "guard", "mprotect", "none"} <= {trap for _, trap in pairs}
    for entry in CAPABILITIES.entries:
        assert entry.available == (entry.reason == "")


def test_what_is_available_opens_and_what_is_not_refuses_with_the_reason() -> None:
    for entry in CAPABILITIES.entries:
        if entry.available:
            with bufpool.Pool("1 MiB", memory=entry.memory, trap=entry.trap) as pool:
                assert (pool.memory, pool.trap) == (entry.memory, entry.trap)
        else:
            with pytest.raises(bufpool.UnsupportedError):
                bufpool.Pool("1 MiB", memory=entry.memory, trap=entry.trap)


def test_auto_takes_the_first_that_works() -> None:
    for memory in ("anon", "shared"):
        works = [trap for trap in ("uffd", "guard", "mprotect") if CAPABILITIES.of(memory, trap).available]
        assert CAPABILITIES.auto[memory] == works[0]
        with bufpool.Pool("1 MiB", memory=memory) as pool:
            assert pool.trap == works[0]
            assert (pool.stats().trap_note == "") == (works[0] == "uffd")


def test_auto_is_what_this_run_expects() -> None:
    expected = os.environ.get("BUFPOOL_EXPECT_AUTO", CAPABILITIES.auto["anon"])
    assert CAPABILITIES.auto["anon"] == expected


def test_facts_of_the_system() -> None:
    assert CAPABILITIES.kernel == os.uname().release
    assert CAPABILITIES.os_page_size == os.sysconf("SC_PAGE_SIZE")
    assert ("anon", CAPABILITIES.auto["anon"]) in CAPABILITIES.available()
    with pytest.raises(KeyError):
        CAPABILITIES.of("anon", "magic")
