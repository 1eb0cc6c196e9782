"""gdb commands that show the pools of a process, or of the core dump of a dead one: source this file in gdb.

bufpool pools                   every pool of every copy of the library
bufpool page [ADDRESS]          the page at an address: state and history. Without one it is the page that the process
                                faulted on, or else the page of the newest report
bufpool page POOL NUMBER        the same by the pool's name or address, and the page's number
bufpool faults [POOL]           the fault reports that the pools remember

Debug information is not needed: the library says itself where its fields are (native/src/postmortem.h). The process is
read, never changed or continued. What is damaged, or missing from a core dump, is said in a sentence.
"""

from __future__ import annotations

import datetime
import re
import struct
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import gdb

sys.path.insert(0, str(Path(__file__).resolve().parent))

from bufpool_layout import (
    Event,
    Fault,
    Mapping,
    Pool,
    Struct,
    TroubleError,
    is_missing,
    mapping_at,
    modules_of,
    pool_at,
    survey,
)

SHOWN_FAULTS = 8  # of one page, the latest
NO_PAGE = (1 << 64) - 1


# ---- Lines -----------------------------------------------------------------------------------------------------------


def total(counts: Struct, field: str) -> int:
    """A count: the sum over the library's stripes, each of which may wrap."""
    library = counts.library
    start = counts.at + library.place("counts.stripes")[0]
    size = library.constant("stripe.bytes")
    stripes = [Struct(library, "stripe", start + n * size) for n in range(library.constant("stripes"))]
    return sum(stripe.number(field) for stripe in stripes) % 2**64


def pool_lines(pool: Pool) -> Iterator[str]:
    """What it is, as the fault reports have it, and how many pages are in which state."""
    yield (
        f'pool "{pool.name}" is [{pool.first:#x}, {pool.end:#x}): {pool.count} pages of {unit(pool.page_size)}, '
        f"memory {pool.text('memory')}, trap {pool.trap()}, on_fault {pool.word('policy')}, "
        f"process {pool.number('process')}{', closed' if pool.closed else ''}"
    )
    faults = f"faults: {pool.number('faults')}"
    if pool.closed:
        yield f"  {faults}"
        return
    counts = Struct(pool.library, "counts", pool.number("counts"))
    evicted, allocations, frees = (total(counts, field) for field in ("evicted", "allocations", "frees"))
    allocated = max(allocations - frees - evicted, 0)
    yield f"  pages allocated: {allocated}, evicted: {evicted}, ever used: {counts.number('high_water')}; {faults}"
    members = [f'{pid} "{name}"' for pid, name in pool.members()]
    if members:
        yield f"  processes that have it: {', '.join(members)}"


def report_lines(fault: Fault, known: Iterable[int] = ()) -> Iterator[str]:
    """A fault report; of its history, what is not among the events known by number."""
    page = fault.number("page")
    offset = fault.number("offset")
    offset -= 1 << 64 if offset >> 63 else 0  # in a red zone, before the page
    call = fault.text("in_syscall")
    yield (
        f"report {fault.number('sequence')}: stray {fault.word('access')} at {fault.number('address'):#x}, page {page} "
        f"({', '.join([fault.word('state'), *fault.flags()])}), offset {offset}"
        f"{f', in the system call {call}' if call else ''}"
    )
    yield (
        f'  by thread {fault.number("thread_id")} "{fault.text("thread_name")}" of process {fault.number("pid")}, '
        f"{moment(fault.number('time_ns'))}"
    )
    yield from stack_lines(fault.raw("stack"), fault.number("stack_depth"))
    near = [(fault.number(name), name) for name in ("below", "above") if fault.number(name) != NO_PAGE]
    words = ", ".join(f"page {number}, {abs(number - page)} {side}" for number, side in near if number != page)
    if words:
        yield f"  nearest allocated pages: {words}"
    counts = ((fault.number("read_pins"), "reading"), (fault.number("write_pins"), "writing"))
    pins = ", ".join(f"{count} for {purpose}" for count, purpose in counts if count)
    if pins:
        yield f"  pins: {pins}"
    for event in fault.history():
        if event.sequence not in known:
            yield from (f"  {line}" for line in event_lines(event))


def event_lines(event: Event) -> Iterator[str]:
    """As the fault reports have it."""
    thread, pid, name, process = event.thread
    of = f' "{process}"' if process and pid != thread else ""
    by = f'thread {thread} "{name}" of process {pid}{of}' if thread else "a thread that is not known any more"
    yield f"{event.verb} by {by}, {moment(event.time_ns)} (event {event.sequence})"
    yield from (line[2:] for line in stack_lines(event.stack, len(event.stack) // 8, event.places, pid))
    if event.caller:
        yield "  on behalf of, innermost last:"
        yield from (f"    {line}" for line in event.caller.splitlines())


def pool_of(wanted: str) -> Pool:
    """By name or by an address in it; an open one before a closed one, then the one opened last."""
    pools, trouble = survey()
    found = [pool for pool in pools if pool.name == wanted]
    if found:
        return min(found, key=lambda pool: pool.closed)
    try:
        address = number_of(wanted)
    except TroubleError:
        raise TroubleError("\n".join([f'there is no pool "{wanted}": see bufpool pools', *trouble])) from None
    return pool_at(address)


def page_lines(pool: Pool, page: int, offset: int | None = None) -> Iterator[str]:
    """All that is known of a page."""
    first = pool.first + pool.lead + page * (pool.lead + pool.page_size)
    word = None if pool.closed else pool.state_word(page)
    state = "closed" if word is None else pool.state(word)
    yield f'page {page} of pool "{pool.name}" is {state}{"" if word is None else pool.flags(word)}'
    where = f"[{first:#x}, {first + pool.page_size:#x})"
    if offset is not None and not 0 <= offset < pool.page_size:
        yield "  the address is in a red zone beside it"
    yield f"  {where}" if offset is None else f"  offset {offset} of {pool.page_size} bytes; the page is {where}"
    yield from (f"  {line}" for line in pool_lines(pool))
    if state == "allocated" and is_missing(first):
        yield "  its content is not in this dump: pools are left out, unless opened with BUFPOOL_DUMP (dump=True)"
    try:
        events = pool.history(page)
    except TroubleError as error:
        events = []
        yield f"  {error}"
    else:
        off = "nothing is recorded" if pool.number("provenance") else "the pool has provenance off"
        yield from [] if events else [f"  no history: {off}"]
    for event in events:
        yield from (f"  {line}" for line in event_lines(event))
    try:
        faults = [fault for fault in pool.faults() if fault.number("page") == page]
    except TroubleError as error:
        yield f"  {error}"
        return
    cut = f", the latest {SHOWN_FAULTS}" if len(faults) > SHOWN_FAULTS else ""
    yield f"  remembered faults of this page: {len(faults) or 'none'}{cut}"
    for fault in faults[-SHOWN_FAULTS:]:
        yield from (f"    {line}" for line in report_lines(fault, [event.sequence for event in events]))


def newest_lines(pool: Pool, fault: Fault, reason: str) -> Iterator[str]:
    """The same for the page of a report."""
    yield f"{reason.partition(':')[0]}; this is the page of the newest report, {fault.number('sequence')}:"
    yield from page_lines(pool, fault.number("page"), fault.number("offset"))


# ---- Words -----------------------------------------------------------------------------------------------------------


def unit(size: int) -> str:
    """A size in bytes, as the fault reports have it."""
    for name, shift in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size >> shift and size % (1 << shift) == 0:
            return f"{size >> shift} {name}"
    return f"{size} bytes"


def moment(time_ns: int) -> str:
    """A time since the epoch."""
    seconds, rest = divmod(time_ns, 1_000_000_000)
    try:
        when = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    except (OverflowError, ValueError, OSError):
        return f"{time_ns} ns after the epoch"
    return f"{when:%Y-%m-%dT%H:%M:%S}.{rest // 1000:06d}Z"


def stack_lines(raw: bytes, depth: int, places: tuple[str | None, ...] = (), pid: int = 0) -> Iterator[str]:
    """A stack, innermost first, with what gdb knows of each address; places: of those that are of another process."""
    addresses = [address for (address,) in struct.iter_unpack("=Q", raw)][:depth]
    modules = modules_of()
    for i, address in enumerate(addresses):
        place = places[i] if i < len(places) else None
        if place is None:
            place = place_of(address, i > 0, modules)
        else:
            place = f"({place}) in process {pid}" if place else f"in process {pid}"
        yield f"    #{i} {address:#x} {place}".rstrip()


def place_of(address: int, returns: bool, modules: list[Mapping]) -> str:
    """Function, file and line; of a return address, those of the call before it; else module and offset."""
    code = address - 1 if returns else address
    symbol = gdb.execute(f"info symbol {code:#x}", to_string=True)
    function = "" if symbol.startswith("No symbol") else re.sub(r" in section \S+( of .*)?$", "", symbol.strip())
    line = gdb.find_pc_line(code)
    if line.symtab is not None and line.line:
        return f"{function} at {line.symtab.filename}:{line.line}"
    mapped = mapping_at(code, modules)
    return f"{function} ({mapped.path}+{address - mapped.base:#x})".lstrip() if mapped else function


def number_of(text: str) -> int:
    """The value of an expression of gdb's."""
    try:
        return int(gdb.parse_and_eval(text)) & (1 << 64) - 1
    except gdb.error as error:
        raise TroubleError(f'"{text}" is not a number: {error}') from None


def fault_address() -> int:
    """The address that the process faulted on, from the signal that stopped it."""
    try:
        if int(gdb.parse_and_eval("$_siginfo.si_signo")) in (7, 11):  # SIGBUS, SIGSEGV
            return number_of("(unsigned long) $_siginfo._sifields._sigfault.si_addr")
    except gdb.error:
        pass
    raise TroubleError("the process was not stopped by a SIGBUS or SIGSEGV: say which page, by ADDRESS or POOL NUMBER")


def newest_fault(pools: list[Pool]) -> tuple[Pool, Fault] | None:
    """Of all that the pools remember."""
    found = [(fault.number("time_ns"), n, pool, fault) for n, pool in enumerate(pools) for fault in pool.faults()]
    return max(found, key=lambda each: each[:2])[2:] if found else None


# ---- Commands --------------------------------------------------------------------------------------------------------


class Command(gdb.Command):
    """What the commands share: a sentence in place of a traceback."""

    def __init__(self) -> None:
        super().__init__(f"bufpool {type(self).__name__.lower()}", gdb.COMMAND_DATA)

    def invoke(self, argument: str, from_tty: bool) -> None:
        """Called by gdb."""
        del from_tty
        try:
            for line in self.show(gdb.string_to_argv(argument)):
                print(line)
        except TroubleError as error:
            raise gdb.GdbError(f"bufpool: {error}") from None

    def show(self, words: list[str]) -> Iterable[str]:
        """The lines to print."""
        raise NotImplementedError


class Pools(Command):
    """Show every pool of every copy of the library, closed ones too."""

    def show(self, words: list[str]) -> Iterable[str]:
        """The lines to print."""
        if words:
            raise TroubleError("usage: bufpool pools")
        pools, trouble = survey()
        title = ""
        for pool in pools:
            if pool.library.title != title:
                title = pool.library.title
                yield title
            yield from pool_lines(pool)
        if not pools and not trouble:
            yield "no pool is open, and none was closed"
        if trouble:
            raise TroubleError("\n".join(trouble))


class Page(Command):
    """Show the page at an ADDRESS, or of a POOL with a NUMBER.

    By default it is the page that the process faulted on; where no signal has stopped it, as in a process with frozen
    threads, that of the newest report.
    """

    def show(self, words: list[str]) -> Iterable[str]:
        """The lines to print."""
        if len(words) > 2:
            raise TroubleError("usage: bufpool page [ADDRESS], or bufpool page POOL NUMBER")
        if len(words) == 2:
            pool, page = pool_of(words[0]), number_of(words[1])
            if page >= pool.count:
                raise TroubleError(f'pool "{pool.name}" has no page {page}: its pages are 0 to {pool.count - 1}')
            return page_lines(pool, page)
        try:
            address = number_of(words[0]) if words else fault_address()
        except TroubleError as error:
            newest = None if words else newest_fault(survey()[0])
            if newest is None:
                raise
            return newest_lines(*newest, str(error))
        pool = pool_at(address)
        stride = pool.lead + pool.page_size
        page = min((address - pool.first) // stride, pool.count - 1)
        return page_lines(pool, page, address - pool.first - pool.lead - page * stride)


class Faults(Command):
    """Show the fault reports that all pools, or a POOL by name or address, remember, oldest first."""

    def show(self, words: list[str]) -> Iterable[str]:
        """The lines to print."""
        if len(words) > 1:
            raise TroubleError("usage: bufpool faults [POOL]")
        pools, trouble = ([pool_of(words[0])], []) if words else survey()
        for pool in pools:
            faults = pool.faults()
            if faults or words:
                yield f'pool "{pool.name}": faults: {pool.number("faults")}, remembered: {len(faults)}'
            for fault in faults:
                yield from (f"  {line}" for line in report_lines(fault))
        if trouble:
            raise TroubleError("\n".join(trouble))


class Prefix(gdb.Command):
    """Show the pools of the process or core dump: bufpool pools, bufpool page, bufpool faults."""

    def __init__(self) -> None:
        super().__init__("bufpool", gdb.COMMAND_DATA, prefix=True)


for command in (Prefix, Pools, Page, Faults):
    command()
