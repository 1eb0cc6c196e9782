"""capabilities(): which memory and which trap this kernel and these rights allow, and why not the others."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import attrs

from bufpool import hugepages
from bufpool._native import ffi, lib
from bufpool.errors import last_sentence

# Whose stray accesses trap, from the fewest to all: the columns of the table (table.py).
USERS = {
    lib.BUFPOOL_USERS_ONE: "one process",
    lib.BUFPOOL_USERS_ATTACHED: "attached processes",
    lib.BUFPOOL_USERS_ANYONE: "processes that never attached",
}


@attrs.frozen
class Capability:
    """Whether one trap works on one memory; reason is empty, or says why not and what would change it.

    valid: whether they go together at all, on any system. users: whose stray accesses trap. "one process": of the one
    that opened the pool; "attached processes": of others that map its memory and arm it; "processes that never
    attached": of any that just map it.
    """

    memory: str
    trap: str
    available: bool
    reason: str
    valid: bool = True
    users: tuple[str, ...] = ()


@attrs.frozen
class Capabilities:
    """What works here, tried out and not guessed from the kernel's version."""

    kernel: str  # its release
    machine: str
    os_page_size: int  # bytes
    auto: dict[str, str | None]  # for each memory the trap that "auto" takes; None: there is none
    entries: tuple[Capability, ...]  # every memory with every trap; "path" is tried on the first mount that may be used
    path: str | None = None  # that mount; None: there is none
    no_pin_keys: str = ""  # why Pool(pin_keys=True) does not work here; empty: it does
    no_io_uring: str = ""  # why read_from() and write_to() go without io_uring; empty: they use it where it is quicker

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
    path = _usable_mount()
    return Capabilities(
        kernel=system.release,
        machine=system.machine,
        os_page_size=os.sysconf("SC_PAGE_SIZE"),
        auto={memory: _auto(memory, path) for memory in memories},
        entries=tuple(_try(memory, trap, path) for memory in memories for trap in traps),
        path=path,
        no_pin_keys=last_sentence() if lib.bufpool_probe_keys() else "",
        no_io_uring=last_sentence() if lib.bufpool_probe_uring() else "",
    )


def _usable_mount() -> str | None:
    """The first hugetlbfs mount that this user may write to, and one with noautofill before the others."""
    mounts = [mount for mount in hugepages.read_mounts() if mount.writable]
    mounts.sort(key=lambda mount: not mount.noautofill)
    return mounts[0].path if mounts else None


def _try(memory: str, trap: str, path: str | None) -> Capability:
    mask = ffi.new("uint32_t *")
    valid = lib.bufpool_cell(memory.encode(), trap.encode(), mask) == 0
    if not valid:
        return Capability(memory, trap, False, last_sentence(), valid=False)
    users = tuple(text for bit, text in USERS.items() if mask[0] & bit)
    if memory == "path" and path is None:
        return Capability(
            memory, trap, False, "there is no hugetlbfs mount to write to: see bufpool mount", users=users
        )
    code = lib.bufpool_probe(_tried(memory, path), trap.encode(), ffi.NULL, 0)
    return Capability(memory, trap, code == 0, "" if code == 0 else last_sentence(), users=users)


def _auto(memory: str, path: str | None) -> str | None:
    found = ffi.new("char[16]")
    code = lib.bufpool_probe(_tried(memory, path), b"auto", found, 16)
    return None if code else ffi.string(found).decode()


def _tried(memory: str, path: str | None) -> bytes:
    return os.fsencode(path) if memory == "path" and path is not None else memory.encode()


def _names(function: Callable[[int], object]) -> Iterator[str]:
    index = 0
    while name := function(index):
        yield ffi.string(name).decode()
        index += 1
