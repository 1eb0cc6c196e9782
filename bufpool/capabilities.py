"""capabilities(): which memory and which trap this kernel and these rights allow, and why not the others."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import attrs

from bufpool._native import ffi, lib
from bufpool.errors import last_sentence


@attrs.frozen
class Capability:
    """Whether one trap works on one memory; reason is empty, or says why not and what would change it."""

    memory: str
    trap: str
    available: bool
    reason: str


@attrs.frozen
class Capabilities:
    """What works here, tried out and not guessed from the kernel's version."""

    kernel: str  # its release
    machine: str
    os_page_size: int  # bytes
    auto: dict[str, str | None]  # for each memory the trap that "auto" takes; None: there is none
    entries: tuple[Capability, ...]  # every memory with every trap

    def available(self) -> tuple[tuple[str, str], ...]:
        """The pairs of memory and trap that work."""
        return tuple((entry.memory, entry.trap) for entry in self.entries if entry.available)

    def of(self, memory: str, trap: str) -> Capability:
        """The entry for one pair. Raises KeyError."""
        for entry in self.entries:
            if (entry.memory, entry.trap) == (memory, trap):
                return entry
        raise KeyError((memory, trap))


def capabilities() -> Capabilities:
    """Tries each memory with each trap on a small pool. Takes milliseconds."""
    system = os.uname()
    memories = list(_names(lib.bufpool_memory_name))
    traps = [name for name in _names(lib.bufpool_trap_name) if name != "auto"]
    return Capabilities(
        kernel=system.release,
        machine=system.machine,
        os_page_size=os.sysconf("SC_PAGE_SIZE"),
        auto={memory: _auto(memory) for memory in memories},
        entries=tuple(_try(memory, trap) for memory in memories for trap in traps),
    )


def _try(memory: str, trap: str) -> Capability:
    code = lib.bufpool_probe(memory.encode(), trap.encode(), ffi.NULL, 0)
    return Capability(memory, trap, code == 0, "" if code == 0 else last_sentence())


def _auto(memory: str) -> str | None:
    found = ffi.new("char[16]")
    code = lib.bufpool_probe(memory.encode(), b"auto", found, 16)
    return None if code else ffi.string(found).decode()


def _names(function: Callable[[int], object]) -> Iterator[str]:
    index = 0
    while name := function(index):
        yield ffi.string(name).decode()
        index += 1
