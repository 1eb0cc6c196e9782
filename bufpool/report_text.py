"""A report from a log as lines of text, like those that bufpool itself writes, with the functions' names if they are
known.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from datetime import timedelta

from bufpool import sizes
from bufpool.report_log import LoggedEvent, LoggedReport, Suppressed, iso
from bufpool.report_sites import Site

# What a frame is called beside its module: "in f at file.c:3", a line for each function that was inlined. The flag says
# that it is the faulting instruction itself, not a return address.
Names = Callable[[str, bool], tuple[str, ...]]

_OURS = ("_native.abi3.so", "libbufpool")  # modules
REUSED = "the page's number has been used again: a pointer from before the free is to a page that is gone"
_VERBS = {
    "allocate": "allocated",
    "populate": "populated",
    "free": "freed",
    "evict": "evicted",
    "close": "closed",
    "pin": "pinned",
    "unpin": "unpinned",
}


def no_names(_place: str, _exact: bool) -> tuple[str, ...]:
    """Nothing is known."""
    return ()


def clean(text: str) -> str:
    """Nothing in it steers a terminal or turns the direction of writing."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def quoted(text: str) -> str:
    """A name, clean and in quotes."""
    return f'"{clean(text)}"'


def article(word: str) -> str:
    """A word with its article."""
    return f"{'an' if word[:1] in 'aeiou' else 'a'} {clean(word)}"


def what(report: LoggedReport) -> str:
    """The headline's sentence."""
    access = f"stray {clean(report.access)}"
    if report.forked:
        return f"{access} of a page of the parent's pool"
    if report.state == "closed":
        return f"{access} of a page of a closed pool"
    if report.lost:
        return f"{access} of an allocated page whose frame is gone"
    if report.state == "red-zone":
        return f"{access} of a red zone"
    return f"{access} of {article(report.state)} page"


def lines(report: LoggedReport, names: Names = no_names) -> Iterator[str]:
    """The whole report."""
    start = report.address - report.offset
    yield f"=={report.pid}==ERROR: bufpool: {what(report)}"
    by = f" by system call {clean(report.in_syscall)}" if report.in_syscall else ""
    yield f"{clean(report.access).upper()}{by} at address {report.address:#x}, pc {report.pc:#x}"
    thread = f"thread {report.thread_id} {quoted(report.thread_name)} of {_process(report)}"
    yield f"  {thread}, {iso(report.time)}, {_signal(report.signal)}"
    yield from _stack(report.native_stack, names, exact=True)
    size, zone = report.page_size, report.red_zone
    if report.state == "red-zone":
        before = f"{-report.offset} bytes before page {report.page}"
        after = f"{report.offset - size + 1} bytes past the last one of page {report.page}"
        yield (
            f"  red zone, {before if report.offset < 0 else after} of pool {quoted(report.pool)}; "
            f"the page is [{start:#x}, {start + size:#x})"
        )
    else:
        yield _page(report, start)
    pages = report.pool_capacity // size
    end = report.pool_address + report.pool_capacity + (pages + 1) * zone
    yield (
        f"  pool {quoted(report.pool)} is [{report.pool_address:#x}, {end:#x}): "
        f"{pages} pages of {sizes.text(size)}{f' with red zones of {sizes.text(zone)}' if zone else ''}, "
        f"memory {clean(report.memory)}, trap {clean(report.trap)}"
    )
    if report.sample:
        yield f"  the pool guards one allocation in {report.sample}: the same ones again with seed {report.seed}"
    yield from _neighbours(report)
    yield from _pins(report)
    yield from _event(report, report.pinned, names)
    yield from _event(report, report.freed, names)
    yield from _event(report, report.allocated, names, " again" if _is_reused(report) else "")
    yield from _notes(report)
    if report.python_stack:
        yield "  Python, innermost last:"
        yield from (f"    {clean(frame)}" for frame in report.python_stack)
    yield f"=={report.pid}==END of bufpool report {report.sequence}"


def _page(report: LoggedReport, start: int) -> str:
    return (
        f"  page {report.page} of pool {quoted(report.pool)} is {clean(report.state)}; offset {report.offset} of "
        f"{report.page_size} bytes; the page is [{start:#x}, {start + report.page_size:#x})"
    )


def _process(who: LoggedReport | LoggedEvent) -> str:
    """A process has the name of its first thread, whose id is its own."""
    name = f" {quoted(who.process_name)}" if who.process_name and who.thread_id != who.pid else ""
    return f"process {who.pid}{name}"


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "signal"


def _stack(stack: tuple[str, ...], names: Names, *, exact: bool) -> Iterator[str]:
    for number, place in enumerate(stack):
        found = names(place, exact and number == 0)
        if not found:
            yield f"    #{number} {clean(place)}"
        else:
            yield from (f"    #{number} in {clean(name)}" for name in found[:-1])
            yield f"    #{number} in {clean(found[-1])} ({clean(place)})"


def _neighbours(report: LoggedReport) -> Iterator[str]:
    at = report.address - report.pool_address
    stride = report.page_size + report.red_zone
    beside = report.state == "red-zone"
    known = []
    if report.below is not None and (report.below < report.page or (beside and report.below == report.page)):
        known.append(f"{at - (report.below + 1) * stride} bytes past the end of page {report.below}")
    if report.above is not None and (report.above > report.page or (beside and report.above == report.page)):
        known.append(f"{report.red_zone + report.above * stride - at} bytes before page {report.above}")
    if known:
        yield f"  neighbours: {'; '.join(known)}, which {'are' if len(known) > 1 else 'is'} allocated"


def _pins(report: LoggedReport) -> Iterator[str]:
    counts = ((report.read_pins, "reading"), (report.write_pins, "writing"))
    known = ", ".join(f"{count} for {purpose}" for count, purpose in counts if count)
    if known:
        yield f"  pins: {known}"


def _is_reused(report: LoggedReport) -> bool:
    """The page has been freed, and its number used again since."""
    freed, allocated = report.freed, report.allocated
    if freed is None or allocated is None or (freed.event, allocated.event) != ("free", "allocate"):
        return False
    return 0 < (allocated.sequence - freed.sequence) % 2**39 < 2**38


def _event(report: LoggedReport, event: LoggedEvent | None, names: Names, again: str = "") -> Iterator[str]:
    if event is None:
        return
    who = f"thread {event.thread_id} {quoted(event.thread_name)}" if event.thread_id else "a thread not known any more"
    if event.pid not in (0, report.pid):
        who += f" of {_process(event)}"
    milliseconds = abs(report.time - event.time) // timedelta(milliseconds=1)
    ago = f"{milliseconds // 1000}.{milliseconds % 1000:03} s {'before' if report.time >= event.time else 'after'}"
    verb = _VERBS.get(event.event, clean(event.event))
    yield f"  {verb}{again} by {who}, {iso(event.time)}, {ago} (event {event.sequence})"
    yield from _stack(event.native_stack, names, exact=False)
    if event.caller:
        yield "    on behalf of, innermost last:"
        yield from (f"      {clean(frame)}" for frame in event.caller)


def _notes(report: LoggedReport) -> Iterator[str]:
    if report.access == "execute":
        yield "  note: the program jumped into the pool, whose pages are never executable"
    if report.raced and report.access != "execute":
        yield "  note: the page was not accessible when it was touched; it has been allocated since"
    if _is_reused(report):
        yield f"  note: {REUSED}"
    if report.others_pin:
        yield "  note: the page is pinned for writing, by another thread: this one has no write pin in the pool"
    if report.went_through:
        yield "  note: the write is let through to the page's data, which others may be reading"
    if report.lost:
        yield (
            "  note: the program was right to touch the page; its frame was taken past the pool, as by a process that "
            "truncated or punched the file"
        )
    if report.fork_note:
        yield f"  note: {clean(report.fork_note)}"


def suppressed(entry: Suppressed) -> str:
    """The line about reports that were only counted."""
    where = "many other places" if entry.place is None else clean(entry.place)
    return (
        f"=={entry.pid}== bufpool: {entry.count} more stray access{'es' * (entry.count != 1)} to pool "
        f"{quoted(entry.pool)} from {where} (first report: {entry.first_sequence}), only counted: "
        f"report_limit is {entry.limit}"
    )


# ---- Sites -----------------------------------------------------------------------------------------------------------


def short(place: str) -> str:
    """A module's file name and the offset."""
    return clean(place.rpartition("/")[2])


def called(place: str, exact: bool, names: Names) -> str:
    """A function's name, or the module and the offset."""
    found = names(place, exact)
    return clean(found[0].split(" at ")[0]) if found else short(place)


def title(report: LoggedReport, names: Names = no_names) -> str:
    """Where it strayed: the instruction, and its first caller in another module that is not ours."""
    if not report.native_stack:
        return hex(report.pc)
    innermost = report.native_stack[0]
    text = called(innermost, True, names)
    passed = (innermost.rpartition("+")[0].rpartition("/")[2], *_OURS)
    outer = next((frame for frame in report.native_stack[1:] if not short(frame).startswith(passed)), None)
    return text if outer is None else f"{text}, called from {called(outer, False, names)}"


def origin(event: LoggedEvent | None, names: Names = no_names) -> str:
    """Who did it to the page, in few words; empty if that is not known."""
    if event is None:
        return ""
    verb = _VERBS.get(event.event, clean(event.event))
    if event.caller:
        return f"{verb} at {clean(event.caller[-1])}"
    if event.native_stack:
        return f"{verb} in {called(event.native_stack[0], False, names)}"
    return f"{verb} by thread {event.thread_id} {quoted(event.thread_name)}"


def pages(site: Site) -> str:
    """The page, or how many of them."""
    if len(site.pages) == 1:
        return f"page {next(iter(site.pages))}"
    return f"{len(site.pages)} pages, {min(site.pages)} to {max(site.pages)}"
