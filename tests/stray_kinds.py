"""The table of stray kinds: what each is, which cells are expected to be "no" and why, and the table in Markdown.

A cell is a kind of stray access under a trap and a policy. It is "yes" when the access is reported exactly once, and
the report names its address, page, offset, state, access, process and thread. test_stray_table.py makes every access.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import attrs

TRAPS = ("uffd", "guard", "mprotect")
POLICIES = ("abort", "raise", "resume", "freeze")
FATAL = {"raise": "abort", "resume": "abort"}  # the access cannot go on: the process ends
ANSWERED = dict.fromkeys(POLICIES, "answered")  # the access is the result of the call around it


@attrs.frozen
class Kind:
    """One row. effects: what follows, of policies where that is not what the policy says."""

    name: str
    words: str
    effects: Mapping[str, str] = attrs.field(factory=dict, eq=False)
    python: bool = False


@attrs.frozen
class Cell:
    """One access that is made."""

    kind: Kind
    trap: str
    policy: str


KINDS = (
    *(
        Kind(f"{state}-{access}", f"{access} of {words}", FATAL if access == "execute" else {})
        for state, words in (
            ("unallocated", "a page that was never allocated"),
            ("freed", "a freed page"),
            ("evicted", "an evicted page"),
            ("closed", "a page of a closed pool"),
        )
        for access in ("read", "write", "execute")
    ),
    Kind("allocated-execute", "execute of an allocated page", FATAL),
    Kind("past-the-end", "read of the byte after an allocated page, before a hole"),
    Kind("across-an-edge", "read of 8 bytes, the last 4 of them in a hole"),
    Kind("thread", "write by another thread"),
    Kind("handler", "write in a signal handler of the host"),
    Kind("atexit", "write in an `atexit` handler"),
    Kind("child", "write in a forked child"),
    Kind("bare-child", "write in a child made by a bare `clone`, past the fork handlers"),
    Kind("blocked", "write with SIGBUS and SIGSEGV blocked"),
    Kind("guarded", "write inside `bufpool_guarded_call()`", ANSWERED),
    Kind("argument", "a stray pointer given to `bufpool_allocate()` as data", {**ANSWERED, "abort": "abort"}),
    Kind("section-read", "read in an optimistic section"),
    Kind("section-write", "write in an optimistic section"),
    Kind("page", "Python: `page[17] = 1`", ANSWERED, python=True),
    Kind("memoryview", "Python: write through a `memoryview`", python=True),
    Kind("numpy", "Python: write through a numpy array", python=True),
    Kind("os.fork", "Python: write in a child of `os.fork()`", python=True),
    Kind("write", "`write(2)` from a freed page"),
    Kind("read", "`read(2)` into an evicted page"),
    Kind("readv", "`readv(2)`, its second buffer in a hole"),
    Kind("monitored-blocked", "the write with both signals blocked, with a monitor", {"raise": "resume"}),
    Kind("monitored-write", "the same `write(2)`, with a monitor"),
    Kind("monitored-read", "the same `read(2)`, with a monitor"),
    Kind("monitored-readv", "the same `readv(2)`, with a monitor"),
)

# What is expected to be "no", and why: kinds, traps and policies, joined by bars, or * for all.
_BLOCKED = "no handler runs while its signal is blocked: the kernel ends the process at the access, without a report"
NO = (
    ("blocked", "guard|mprotect", "*", _BLOCKED),
    ("blocked", "uffd", "abort|raise|resume", _BLOCKED),
    (
        "section-read",
        "*",
        "*",
        "optimistic readers touch holes on purpose: the section starts again, and `restarts` counts it",
    ),
    (
        "write|read|readv",
        "*",
        "*",
        "the kernel meets the hole, not the program: the call fails with `EFAULT`, or does less than asked, and there "
        "is no signal; `bufpool_explain()` says afterwards which page it was",
    ),
    (
        "monitored-blocked|monitored-write|monitored-read|monitored-readv",
        "guard|mprotect",
        "*",
        "a monitor needs a trap that tells of system calls, which `uffd` alone does: opening the pool is refused",
    ),
)


def cells() -> list[Cell]:
    """All of them."""
    return [Cell(kind, trap, policy) for kind in KINDS for trap in TRAPS for policy in POLICIES]


def reason(cell: Cell) -> str | None:
    """Why a cell is expected to be "no"; None: it is to be detected."""
    names = (cell.kind.name, cell.trap, cell.policy)
    for *patterns, why in NO:
        if all(pattern == "*" or name in pattern.split("|") for name, pattern in zip(names, patterns, strict=True)):
            return why
    return None


def markdown(found: Mapping[Cell, bool]) -> str:
    """The table as README has it. found: was it detected? Of cells that are missing, what is expected."""
    reasons = list(dict.fromkeys(why for *_, why in NO))
    return "\n".join([*_rows(found, reasons), "", *(f"{n}. {why}" for n, why in enumerate(reasons, 1))]) + "\n"


def _rows(found: Mapping[Cell, bool], reasons: list[str]) -> Iterator[str]:
    yield f"| kind of stray access | {' | '.join(f'`{policy}`' for policy in POLICIES)} |"
    yield "|---|" + "---|" * len(POLICIES)
    for kind in KINDS:
        row = ([Cell(kind, trap, policy) for trap in TRAPS] for policy in POLICIES)
        yield f"| {kind.words} | {' | '.join(_words(each, found, reasons) for each in row)} |"


def _words(row: Iterable[Cell], found: Mapping[Cell, bool], reasons: list[str]) -> str:
    """The cells of all traps as one: "yes", "no (1)", or "`uffd`; else no (1)"."""
    traps: dict[str, list[str]] = {}
    for cell in row:
        why = reason(cell)
        number = reasons.index(why) + 1 if why else "not expected"
        traps.setdefault("yes" if found.get(cell, why is None) else f"no ({number})", []).append(f"`{cell.trap}`")
    if len(traps) == 1:
        return next(iter(traps))
    yes = ", ".join(traps.pop("yes", ()))
    return f"{yes}; else {' or '.join(traps)}" if yes else ", ".join(traps)
