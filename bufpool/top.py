"""What `bufpool top` shows: the pools of a process or a file, looked at from outside, and what becomes of them."""

from __future__ import annotations

import contextlib
import os
import time
from datetime import datetime, timezone
from typing import Any

import attrs

from bufpool import outside
from bufpool.errors import BufpoolError
from bufpool.outside import OutsidePool
from bufpool.outside_private import AnyPool, private_of
from bufpool.report_text import quoted
from bufpool.tables import Census, Counts, Facts, Member, Tables, pid_space, started_at

CALLS = ("allocations", "frees", "evictions", "populates")


@attrs.frozen(kw_only=True)
class Process:
    """A process that has a pool."""

    pid: int  # as it knows itself
    name: str
    faults: int  # its stray accesses, since it has the pool
    faults_per_second: float | None  # None: seen for the first time
    alive: bool  # else it has died, and what it left is not yet repaired
    opener: bool


@attrs.frozen(kw_only=True)
class PoolSample:
    """A pool at one time."""

    facts: Facts
    counts: Counts
    census: Census
    processes: tuple[Process, ...]
    per_second: dict[str, float] | None  # by the names of CALLS, and "faults"; None: the first sample
    foreign: bool  # the pids are those of another namespace
    left: int  # busy pages of processes that have died

    @property
    def busy(self) -> int:
        """Pages that are being changed."""
        return sum(self.census.busy.values())

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        counts = self.counts
        return {
            **{name: getattr(self.facts, name) for name in ("name", "memory", "capacity", "page_size", "granule")},
            "pages": self.facts.pages,
            "opened_by": self.facts.pid,
            **self.census.states,
            "busy": self.busy,
            "busy_of_dead": self.left,
            "scratched": self.census.scratched,
            "exact": self.census.exact,
            "high_water": counts.high_water,
            **{name: getattr(counts, name) for name in (*CALLS, "faults")},
            "per_second": self.per_second and {name: round(value, 3) for name, value in self.per_second.items()},
            "processes": [attrs.asdict(process) for process in self.processes],
        }


@attrs.frozen(kw_only=True)
class Frame:
    """All that is shown at one time."""

    time: datetime  # UTC
    title: str
    pools: tuple[PoolSample, ...]  # none: nothing is left to be watched, and the notes say why
    notes: tuple[str, ...]  # what has happened, the last ones
    private: tuple[AnyPool, ...]  # pools of the process that cannot be watched

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "time": self.time.isoformat(timespec="milliseconds"),
            "pools": [pool.as_dict() for pool in self.pools],
            "private": [attrs.asdict(pool) for pool in self.private],
            "notes": list(self.notes),
        }


@attrs.define
class _Watched:
    tables: Tables
    when: float | None = None
    counts: Counts | None = None
    members: dict[tuple[int, int, int], int] = attrs.Factory(dict)  # their faults

    def sample(self, now: float, cells: int) -> PoolSample:
        counts = self.tables.counts()
        members = [member for member in self.tables.members() if member.present]
        end = counts.high_water
        census = self.tables.census(max(1, min(cells, end)), end)
        if not census.exact:  # these two are counted
            states = {**census.states, "allocated": counts.allocated, "evicted": counts.evicted}
            census = attrs.evolve(census, states=states)
        since = None if self.when is None else max(now - self.when, 1e-9)
        rates = None
        if self.counts is not None and since is not None:
            before = self.counts
            rates = {name: max(0, getattr(counts, name) - getattr(before, name)) / since for name in (*CALLS, "faults")}
        facts = self.tables.facts
        dead = {member.number for member in members if not member.alive}
        sample = PoolSample(
            facts=facts,
            counts=counts,
            census=census,
            processes=tuple(self._process(member, since) for member in _by_process(members)),
            per_second=rates,
            foreign=facts.pid_space != pid_space(),
            left=sum(count for number, count in census.busy.items() if number in dead),
        )
        self.when, self.counts = now, counts
        self.members = {_key(member): member.faults for member in _by_process(members)}
        return sample

    def _process(self, member: Member, since: float | None) -> Process:
        known = since is not None and _key(member) in self.members
        return Process(
            pid=member.pid,
            name=member.name,
            faults=member.faults,
            faults_per_second=max(0, member.faults - self.members[_key(member)]) / since if known and since else None,
            alive=member.alive,
            opener=member.pid == self.tables.facts.pid,
        )


def _by_process(members: list[Member]) -> list[Member]:
    """One that has the pool twice, inherited and attached, is one process."""
    found: dict[tuple[int, int, int], Member] = {}
    for member in members:
        key = (member.pid, member.started, 0 if member.started else member.number)
        first = found.setdefault(key, member)
        if first is not member:
            alive, faults = first.alive or member.alive, first.faults + member.faults
            found[key] = attrs.evolve(first, alive=alive, faults=faults)
    return list(found.values())


def _key(member: Member) -> tuple[int, int, int]:
    return member.number, member.pid, member.started


class Watch:
    """The pools of a target, for as long as somebody has them. Use as a context manager."""

    def __init__(self, target: str | int | os.PathLike[str]) -> None:
        """Raises BufpoolError when there is nothing to be watched, and says what there is."""
        self.target = target
        self.pid = outside.as_pid(target)
        self.notes: list[str] = []
        self._started = None if self.pid is None else started_at(self.pid)
        self._watched: dict[tuple[int, int], _Watched] = {}
        self._ended = False
        self._past: set[tuple[int, int]] = set()
        self._private = () if self.pid is None else private_of(self.pid)
        sight = outside.look(target)
        for pool in sight.pools:
            self._add(pool)
        if not self._watched:
            raise BufpoolError("; ".join(sight.troubles) or outside.nothing(target))
        self.notes += sight.troubles

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        for watched in self._watched.values():
            watched.tables.close()
        self._watched.clear()

    def frame(self, cells: int) -> Frame:
        """Looks at all pools; an occupancy strip has at most so many cells."""
        self._look_again()
        now = time.monotonic()
        samples = []
        for identity, watched in list(self._watched.items()):
            sample = watched.sample(now, cells)
            end = _end_of(sample)
            if end:
                self._drop(identity, end)
            else:
                samples.append(sample)
        return Frame(
            time=datetime.now(timezone.utc),
            title=self._title(),
            pools=tuple(samples),
            notes=tuple(self.notes[-3 if samples else -20 :]),
            private=self._private,
        )

    def _title(self) -> str:
        return f"process {self.pid}" if self.pid is not None else quoted(str(self.target))

    def _add(self, pool: OutsidePool) -> bool:
        if pool.identity in self._watched or pool.identity in self._past:
            return False
        with contextlib.suppress(OSError):  # closed meanwhile
            tables = Tables.open(pool.tables)
            if tables is not None and tables.identity == pool.identity:
                self._watched[pool.identity] = _Watched(tables)
                return True
            if tables is not None:
                tables.close()
        return False

    def _drop(self, identity: tuple[int, int], note: str) -> None:
        self._past.add(identity)
        self._watched.pop(identity).tables.close()
        self.notes.append(note)

    def _look_again(self) -> None:
        """The process may have opened pools, or closed its own, or ended; then the others still have them."""
        if self.pid is None or self._ended:
            return
        if started_at(self.pid) != self._started:
            self._ended = True
            self.notes.append(f"process {self.pid} has ended")
            return
        try:
            sight = outside.look(self.pid)
        except BufpoolError:
            return  # it is just ending
        for pool in sight.pools:
            if self._add(pool):
                self.notes.append(f"pool {quoted(pool.facts.name)} was opened")
        seen = {pool.identity for pool in sight.pools}
        for identity in [each for each in self._watched if each not in seen]:
            if started_at(self.pid) == self._started:
                name = self._watched[identity].tables.facts.name
                self._drop(identity, f"process {self.pid} has closed pool {quoted(name)}")


def _end_of(sample: PoolSample) -> str:
    """Why a pool is not to be watched any more; empty: it is."""
    name = quoted(sample.facts.name)
    if sample.counts.closed:
        return f"pool {name} was closed by the process that opened it, {sample.facts.pid}"
    if not sample.processes:
        return f"no process has pool {name} any more"
    if not any(process.alive for process in sample.processes):
        return f"no process has pool {name} any more: the last one has died without closing it"
    return ""
