"""`bufpool check`: looking at all of the pools of another process, or at the one in a file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import attrs
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from bufpool import outside, sizes
from bufpool.errors import BufpoolError, PoolClosedError
from bufpool.inspection import Findings
from bufpool.outside import OutsidePool
from bufpool.pool import Pool
from bufpool.report_text import quoted
from bufpool.sharing import PoolHandle

CLEAN, WRONG, CANNOT_LOOK = 0, 1, 2  # exit codes

_MEANING = {
    "abandoned": "amid a change by a process that is gone",
    "lost frame": "allocated, and the frame is gone",
    "stray frame": "not allocated, and has a frame: does not trap",
    "index": "the index of free numbers says otherwise",
    "scratch": "withheld for a scratch pattern that nobody shows",
    "state": "the state means nothing",
    "counts": "the pool's counts are not those of its pages",
}


@attrs.frozen(kw_only=True)
class Checked:
    """One pool that was looked at, or could not be."""

    name: str
    pid: int  # of a process that has it
    memory: str
    page_size: int
    processes: int | None
    findings: Findings | None
    trouble: str | None  # why there are none

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        findings = None if self.findings is None else {"clean": self.findings.clean, **self.findings.as_dict()}
        return {**attrs.asdict(self, recurse=False), "findings": findings}


@attrs.frozen(kw_only=True)
class Result:
    """All of a target."""

    pools: tuple[Checked, ...]
    troubles: tuple[str, ...]  # on what could not be looked at and has no name

    @property
    def exit_code(self) -> int:
        """0 clean, 1 something wrong, 2 something could not be looked at."""
        if self.troubles or any(pool.findings is None for pool in self.pools):
            return CANNOT_LOOK
        return CLEAN if all(pool.findings and pool.findings.clean for pool in self.pools) else WRONG

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"pools": [pool.as_dict() for pool in self.pools], "troubles": list(self.troubles)}


def check(target: str, *, repair: bool) -> Result:
    """Looks at the pools of a process (its pid), or at the one whose memory is a file (its path)."""
    sight = outside.look(target)
    troubles = sight.troubles
    if not sight.pools and not troubles:
        raise BufpoolError(outside.nothing(target))
    pools = tuple(checked for pool in sight.pools if (checked := _check(pool, repair)) is not None)
    if not pools and not troubles:
        raise BufpoolError(f"{', '.join(quoted(pool.facts.name) for pool in sight.pools)} was closed just now")
    return Result(pools=pools, troubles=troubles)


def _check(found: OutsidePool, repair: bool) -> Checked | None:
    """None: it was closed just now."""
    processes = findings = trouble = None
    try:
        with _handle(found) as handle, Pool.attach(handle, on_fault="resume", fork="exclude") as pool:
            processes = pool.stats().members - 1
            findings = pool.inspect(repair=repair)
    except (PoolClosedError, FileNotFoundError):
        return None
    except (BufpoolError, OSError) as error:
        trouble = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return Checked(
        name=found.facts.name,
        pid=found.pid,
        memory=found.facts.memory,
        page_size=found.facts.page_size,
        processes=processes,
        findings=findings,
        trouble=trouble,
    )


def _handle(found: OutsidePool) -> PoolHandle:
    if found.facts.memory.startswith("adopted"):
        raise BufpoolError("its memory is the program's own, which pool.inspect() there cannot look at either")
    if found.memory is None:
        raise BufpoolError(f"process {found.pid} has the tables of the pool, and its memory no more")
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY  # the process may have led us anywhere
    memory = os.open(found.memory, flags)
    try:
        tables = os.open(found.tables, flags)
    except OSError:
        os.close(memory)
        raise
    handle = PoolHandle.from_fds(memory, tables)
    of_tables, of_memory = os.fstat(tables).st_uid, os.fstat(memory).st_uid
    # Tables can be forged, and repair takes frames away: with our rights, and by what they say.
    if of_tables not in (of_memory, os.geteuid(), 0):
        handle.close()
        raise BufpoolError(
            f"its tables are of user {of_tables}, and its memory is of user {of_memory}: "
            "they are only believed of that user's own memory"
        )
    return handle


def show(console: Console, result: Result) -> None:
    """Prints a few lines for each pool, and a table of what is wrong."""
    for pool in result.pools:
        console.print(f'pool "{escape(pool.name)}" of process {pool.pid}: memory {escape(pool.memory)}', end="")
        if pool.findings is None:
            console.print(f"\n  cannot be looked at: {escape(pool.trouble or '')}")
        else:
            _show_findings(console, pool, pool.findings)
    for trouble in result.troubles:
        console.print(escape(trouble))


def _show_findings(console: Console, pool: Checked, findings: Findings) -> None:
    count = pool.processes
    console.print(
        f", {findings.pages} pages of {sizes.text(pool.page_size)}, {count} process{'' if count == 1 else 'es'}"
    )
    states = ("allocated", "evicted", "free", "busy", "abandoned")
    console.print("  " + ", ".join(f"{name} {getattr(findings, name)}" for name in states))
    if not findings.clean:
        table = Table("wrong", "count", "pages", "what that is", box=None, padding=(0, 2, 0, 0), pad_edge=False)
        for kind, many in findings.by_kind().items():
            if many:
                table.add_row(kind, str(many), _which(findings, kind, many), _MEANING[kind])
        console.print(Padding(table, (0, 0, 0, 2)))
    console.print(f"  {_verdict(findings)}")


def _which(findings: Findings, kind: str, many: int) -> str:
    pages: Sequence[str] = [str(wrong.page) for wrong in findings.wrong if wrong.what == kind][:4]
    return ", ".join([*pages, *(["..."] if pages and many > len(pages) else [])])


def _verdict(findings: Findings) -> str:
    said = "clean" if findings.clean else f"{findings.total} wrong"
    if findings.repaired:
        said += f", {findings.repaired} repaired"
    return said + ("" if findings.exact else "; the pool is at work: what was just being changed was passed over")
