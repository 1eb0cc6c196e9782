"""A memory cgroup of the bench's own, below or beside that of this process, with cgroups v1 or v2, whichever has it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from suite.undo import put_back


class CgroupUnavailableError(Exception):
    """No memory cgroup can be made here, and why."""


def _mounts() -> Iterator[tuple[Path, str, str]]:
    """Mount point, file system and options."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, after = line.split(" - ", 1)
        system, _, options = after.split(" ", 2)
        yield Path(before.split(" ")[4]), system, options


def _own(mount: Path, controller: str) -> Path:
    """This process's own cgroup; the mount itself where the path is that of another namespace."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(",") and (mount / path.lstrip("/")).is_dir():
            return mount / path.lstrip("/")
    return mount


def _place() -> tuple[Path, str]:
    """Where a cgroup may be made, and the file of its limit."""
    for mount, system, options in _mounts():
        if system == "cgroup" and "memory" in options.split(","):
            return _own(mount, "memory"), "memory.limit_in_bytes"
    for mount, system, _ in _mounts():
        if system != "cgroup2":
            continue
        own = _own(mount, "")
        # v2 has processes in the leaves only, so a new one goes beside this process's.
        for place in (own, own.parent) if own != mount else (own,):
            control = place / "cgroup.subtree_control"
            if control.exists() and "memory" in control.read_text().split():
                return place, "memory.max"
    raise CgroupUnavailableError("no cgroup file system here has the memory controller")


# The processes that are in it may take a moment to be gone.
_REMOVE = "left=50; until rmdir '{}' || [ $left = 0 ]; do sleep 0.1; left=$((left - 1)); done"


@contextmanager
def memory_cgroup(name: str, limit: int) -> Iterator[Path]:
    """The file that a process enters by. The cgroup goes when the block ends, as its processes have to."""
    place, file = _place()
    cgroup = place / f"bufpool-bench-{os.getpid()}-{name}"
    try:
        cgroup.mkdir()
    except OSError as error:
        raise CgroupUnavailableError(f"a memory cgroup cannot be made in {place}: {error.strerror}") from error
    with put_back(_REMOVE.format(cgroup)):
        (cgroup / file).write_text(str(limit))
        if file == "memory.max" and (swap := cgroup / "memory.swap.max").exists():
            swap.write_text("0")
        yield cgroup / "cgroup.procs"
