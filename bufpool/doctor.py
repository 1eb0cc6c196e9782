"""What this kernel and this user may use, each "no" with its reason and what would change it."""

from __future__ import annotations

import os
import platform
import re
import resource
import shutil
from pathlib import Path
from typing import Any

import attrs

import bufpool
from bufpool import _child, hugepages, symbolize
from bufpool.capabilities import Capabilities
from bufpool.hugepages import Hugepages
from bufpool.owners import name_of

_TIMEOUT = 30.0
_SECCOMP = {"0": "off", "1": "strict", "2": "a filter is in force"}
_OVERCOMMIT = {
    "0": "0, heuristic",
    "1": "1, always",
    "2": "2, never: frames are refused beyond vm.overcommit_ratio, and so is plain mmap's address space",
}
_CAP_SYS_PTRACE = 19
_THP = Path("/sys/kernel/mm/transparent_hugepage")


@attrs.frozen
class SQLiteLibrary:
    """The SQLite that Python's sqlite3 module uses, and whether it can be given a page cache: reason says why not."""

    version: str | None
    library: str | None
    usable: bool
    reason: str


@attrs.frozen
class Setting:
    """Something about this system that decides or limits what works; note is empty where it does not matter."""

    name: str
    value: str
    note: str = ""


@attrs.frozen
class Examination:
    """All that the doctor knows."""

    version: str
    settings: tuple[Setting, ...]
    hugepages: Hugepages
    capabilities: Capabilities
    sqlite: SQLiteLibrary

    @property
    def traps(self) -> bool:
        """Whether anything but plain mmap works."""
        return any(trap != "none" for _, trap in self.capabilities.available())

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"traps": self.traps, **attrs.asdict(self)}


def examine() -> Examination:
    """Tries everything out. Takes about half a second, most of it for a process that tries SQLite."""
    found = bufpool.capabilities()
    return Examination(bufpool.__version__, tuple(_settings(found)), hugepages.read(), found, sqlite_library())


def sqlite_library() -> SQLiteLibrary:
    """Tries to install the page cache in a process of its own, so that this one's SQLite is left alone."""
    try:
        return SQLiteLibrary(**_child.run("bufpool.doctor", {}, _TIMEOUT))
    except _child.ChildError as error:
        return SQLiteLibrary(None, None, False, str(error))


def _try_sqlite() -> dict[str, Any]:
    """In the child."""
    try:
        import sqlite3
    except ImportError as error:
        reason = f"this Python has no sqlite3 module ({error})"
        return {"version": None, "library": None, "usable": False, "reason": reason}
    try:
        bufpool.sqlite.install(capacity="1 MiB")
    except bufpool.BufpoolError as error:
        return {"version": sqlite3.sqlite_version, "library": None, "usable": False, "reason": str(error)}
    library = bufpool.sqlite.stats().library
    return {"version": sqlite3.sqlite_version, "library": library, "usable": True, "reason": ""}


# ---- Settings --------------------------------------------------------------------------------------------------------


def _settings(found: Capabilities) -> list[Setting]:
    status = _status()
    return [
        Setting("kernel", f"Linux {found.kernel}, {found.machine}"),
        Setting("page size", f"{found.os_page_size} bytes", "the smallest granule"),
        Setting("Python", f"{platform.python_implementation()} {platform.python_version()}"),
        _user(status),
        Setting("seccomp", _SECCOMP.get(status.get("Seccomp", ""), "unknown"), _seccomp_note(status)),
        _userfaultfd_device(),
        _monitor(),
        _pin_keys(found),
        _io_uring(found),
        _file(
            "vm.unprivileged_userfaultfd",
            "0 is enough for the trap, which is opened for user mode only; monitor=True needs 1, or another right",
        ),
        _file(
            "vm.max_map_count", "trap mprotect splits mappings, one or two for each hole: it is the first to run out"
        ),
        _file("vm.overcommit_memory", "", _OVERCOMMIT),
        *_thp(),
        _nodes(),
        *_limits(),
        _memory_cgroup(),
        _file(
            "kernel.core_pattern",
            'where core dumps go after on_fault "abort"; with | to a program, such as systemd-coredump (coredumpctl); '
            "in a container it is the host's",
        ),
        _symbolizer(),
        _gdb(),
    ]


def _status() -> dict[str, str]:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _user(status: dict[str, str]) -> Setting:
    uid = os.geteuid()
    ptrace = int(status.get("CapEff", "0"), 16) >> _CAP_SYS_PTRACE & 1
    return Setting("user", f"{uid} ({name_of(uid)}), {'with' if ptrace else 'without'} CAP_SYS_PTRACE")


def _seccomp_note(status: dict[str, str]) -> str:
    if status.get("Seccomp") != "2":
        return ""
    return "containers refuse userfaultfd by default; --device /dev/userfaultfd allows it; trap guard works too"


def _userfaultfd_device() -> Setting:
    path = Path("/dev/userfaultfd")
    if not path.exists():
        return Setting(str(path), "not there", "only needed where the system call is refused")
    return Setting(str(path), "may be opened" if os.access(path, os.R_OK | os.W_OK) else "may not be opened")


def _monitor() -> Setting:
    name = "monitor"
    try:
        bufpool.Pool("64 KiB", trap="uffd", monitor=True, name="doctor").close()
    except bufpool.BufpoolError as error:
        return Setting(name, "no", getattr(error, "strerror", None) or str(error))
    return Setting(name, "yes", "stray accesses made by system calls are reported, with the call's name")


def _memory_cgroup() -> Setting:
    with bufpool.Pool("64 KiB", trap="none", check_headroom=True, name="doctor") as pool:
        unlimited = "check_headroom" in pool.stats().memory_note
    if unlimited:
        return Setting("memory cgroup", "no limit")
    return Setting("memory cgroup", "limited", "at its limit the kernel kills; check_headroom=True fails first")


def _pin_keys(found: Capabilities) -> Setting:
    name = "pin keys"
    if found.no_pin_keys:
        return Setting(name, "no", found.no_pin_keys)
    return Setting(name, "yes", "pin_keys=True keeps threads without a write pin from writing")


def _io_uring(found: Capabilities) -> Setting:
    name = "io_uring"
    if found.no_io_uring:
        return Setting(name, "no", found.no_io_uring)
    return Setting(name, "yes", "read_from() and write_to() with O_DIRECT keep many requests in flight")


def _symbolizer() -> Setting:
    try:
        return Setting("symbolizer", symbolize.find().tool, "for bufpool report --symbolize")
    except symbolize.SymbolizerError as error:
        return Setting("symbolizer", "none", f"for bufpool report --symbolize: {error}")


def _gdb() -> Setting:
    found = shutil.which("gdb")
    return Setting("gdb", found or "not installed", "shows pools and pages of a process or a core dump: README, In gdb")


def _file(name: str, note: str, texts: dict[str, str] | None = None) -> Setting:
    try:
        value = Path("/proc/sys", *name.split(".")).read_text(encoding="utf-8").strip()
    except OSError as error:
        return Setting(name, f"unknown ({error.strerror})", note)
    return Setting(name, (texts or {}).get(value, value), note)


def _thp() -> list[Setting]:
    """Transparent huge pages: of each file the word in brackets is the one in force."""
    kinds = [
        ("enabled", {"never": "memory thp gets small pages: echo madvise > " + str(_THP / "enabled")}),
        ("defrag", {"never": "memory thp gets huge pages only while some are free"}),
        ("shmem_enabled", {}),
    ]
    settings = []
    for name, notes in kinds:
        try:
            text = (_THP / name).read_text(encoding="utf-8")
        except OSError as error:
            value = f"unknown ({error.strerror})"
        else:
            chosen = re.search(r"\[(.+?)\]", text)
            value = chosen[1] if chosen else text.strip()
        settings.append(Setting(f"thp {name}", value, notes.get(value, "")))
    return settings


def _nodes() -> Setting:
    try:
        value = Path("/sys/devices/system/node/online").read_text(encoding="utf-8").strip()
    except OSError:
        return Setting("NUMA nodes", "none", "this kernel knows no nodes")
    if value == "0":
        return Setting("NUMA nodes", "one, node 0", "where frames lie makes no difference")
    return Setting("NUMA nodes", f"nodes {value}", "")


def _limits() -> list[Setting]:
    kinds = [
        ("RLIMIT_AS", resource.RLIMIT_AS, "a pool's whole capacity counts, also what has no frame"),
        ("RLIMIT_MEMLOCK", resource.RLIMIT_MEMLOCK, "bytes that may be locked, without CAP_IPC_LOCK"),
        ("RLIMIT_NOFILE", resource.RLIMIT_NOFILE, "a pool takes one or two files"),
        ("RLIMIT_CORE", resource.RLIMIT_CORE, "0: no core dump after on_fault abort"),
    ]
    settings = []
    for name, kind, note in kinds:
        limit = resource.getrlimit(kind)[0]
        unlimited = limit == resource.RLIM_INFINITY
        settings.append(Setting(name, "unlimited" if unlimited else str(limit), "" if unlimited else note))
    return settings


if __name__ == "__main__":
    _child.serve(_try_sqlite)
