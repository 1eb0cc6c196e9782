"""find(): the pools of another process that can be looked at from outside: those that it has with others, or could.

Their tables are a memfd among the descriptors of every process that has the pool. Pools of private memory have none.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs

from bufpool.descriptors import WHO_CAN, descriptors
from bufpool.errors import ArgumentError, BufpoolError
from bufpool.outside_private import private_of
from bufpool.tables import Facts, Tables, TablesError

_NAME = "/memfd:bufpool-tables"
_LOCK = re.compile(r"^\d+: FLOCK\s+\S+\s+\S+\s+(\d+) ([0-9a-f]+):([0-9a-f]+):(\d+) ", re.MULTILINE)


@attrs.frozen(kw_only=True)
class OutsidePool:
    """A pool of some process. The paths lead to its files as long as that process has it."""

    pid: int  # the process that it was found in
    facts: Facts
    tables: str  # /proc/PID/fd/N
    memory: str | None  # the same; None: the process has not got it
    identity: tuple[int, int] = attrs.field(repr=False)  # device and inode of the tables' file


@attrs.frozen(kw_only=True)
class Sight:
    """What was found of one target."""

    pools: tuple[OutsidePool, ...]
    troubles: tuple[str, ...]  # sentences on what calls itself tables, and cannot be used


def find(target: int | str | os.PathLike[str]) -> tuple[OutsidePool, ...]:
    """The pools of a process (its pid), or the one whose memory is a file (its path); a path of digits is a pid.

    Raises BufpoolError when there is no such process or file, or it may not be looked at, or it has no pools that can
    be seen from outside.
    """
    found = look(target)
    if not found.pools:
        raise BufpoolError("; ".join(found.troubles) or nothing(target))
    return found.pools


def nothing(target: int | str | os.PathLike[str]) -> str:
    """What to say of a target without such pools."""
    pid = as_pid(target)
    if pid is None:
        return f'no process has a pool in "{_path_text(target)}", or only such as may not be looked at: {WHO_CAN}'
    text = f"process {pid} has no pool that can be seen from outside (of memory shared, hugetlb or a path)"
    private = private_of(pid)
    if private:
        text += f", but private ones, of which only bufpool_stats() tells, there: {', '.join(map(str, private))}"
    return text


def look(target: int | str | os.PathLike[str]) -> Sight:
    """The same, with what cannot be used; nothing to be found is no error."""
    pid = as_pid(target)
    if pid is not None:
        return _of_process(pid)
    return _of_file(target)


def as_pid(target: int | str | os.PathLike[str]) -> int | None:
    """The target as a pid; None: it is a path. Raises ArgumentError."""
    if isinstance(target, str) and target.isascii() and target.isdigit():
        target = int(target)
    if not isinstance(target, int):
        return None
    if not 0 < target < 2**31:
        raise ArgumentError(f"{target} is no process: a pid is from 1 to {2**31 - 1}")
    return target


def _of_process(pid: int) -> Sight:
    pools: dict[tuple[int, int], OutsidePool] = {}
    troubles = []
    files = descriptors(pid)
    for path, name in files.items():
        if not name.startswith(_NAME):
            continue
        try:
            tables = Tables.open(path)
        except FileNotFoundError:
            continue  # closed meanwhile
        except TablesError as error:
            troubles.append(f"{path} says that it has the tables of a pool, and cannot be used: {error}")
            continue
        except OSError as error:
            troubles.append(f"{path} has the tables of a pool, and cannot be opened: {error.strerror}")
            continue
        if tables is None:
            continue
        with tables:
            if tables.identity not in pools:
                memory = _file_of(files, tables.facts.file)
                pools[tables.identity] = OutsidePool(
                    pid=pid, facts=tables.facts, tables=path, memory=memory, identity=tables.identity
                )
    return Sight(pools=tuple(pools.values()), troubles=tuple(troubles))


def _file_of(files: Iterable[str], identity: tuple[int, int]) -> str | None:
    """The descriptor that has a file."""
    for path in files:
        with contextlib.suppress(OSError):
            status = os.stat(path)  # noqa: PTH116
            if (status.st_dev, status.st_ino) == identity and stat.S_ISREG(status.st_mode):
                return path
    return None


def _of_file(path: Any) -> Sight:
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError as error:
        raise BufpoolError(f'"{_path_text(path)}" cannot be looked at: {error.strerror}') from None
    except ValueError:
        raise ArgumentError(f"{path!r} is no path") from None
    identity = status.st_dev, status.st_ino
    troubles: list[str] = []
    first = _lockers(identity)
    for pid in first + [pid for pid in _processes() if pid not in first]:
        try:
            sight = _of_process(pid)
        except BufpoolError as error:
            troubles += [str(error)] * (pid in first)
            continue
        pools = tuple(pool for pool in sight.pools if pool.facts.file == identity)
        if pools:
            return Sight(pools=pools[:1], troubles=())
        troubles += sight.troubles if pid in first else ()
    return Sight(pools=(), troubles=tuple(troubles))


def _lockers(identity: tuple[int, int]) -> list[int]:
    """The processes that took the lock which a pool has on its file; another may hold it by now."""
    try:
        locks = Path("/proc/locks").read_text(encoding="ascii", errors="replace")
    except OSError:
        return []
    wanted = f"{os.major(identity[0]):02x}", f"{os.minor(identity[0]):02x}", str(identity[1])
    return list(dict.fromkeys(int(pid) for pid, *file in _LOCK.findall(locks) if tuple(file) == wanted))


def _processes() -> list[int]:
    with contextlib.suppress(OSError):
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208
    return []


def _path_text(path: Any) -> str:
    text = os.fspath(path)
    return "".join(char if char.isprintable() else "?" for char in text)
