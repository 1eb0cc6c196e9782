"""The rows of the campaign: one bug each, and what bufpool's test preset has to say of it."""

from __future__ import annotations

import attrs

TRAP = "trap"  # at the access itself
ERROR = "error"  # the call that is wrong is refused
EXPLAINED = "explained"  # the system call fails, and the library tells of what page
AUDIT = "audit"
PATTERN = "pattern"  # the bytes show it, to whoever asks
NO = "no"


@attrs.frozen
class Stricter:
    """What detects a bug that the test preset does not: tried here if it is to be had, or by make test-noautofill."""

    name: str
    options: str  # after the row's; empty: the campaign cannot try it
    check: str  # of make test-noautofill
    lacking: str = ""  # why the campaign cannot


@attrs.frozen
class Row:
    """A seeded bug. says: patterns that the report has to match, {page} and so on being what the program announced."""

    number: int
    bug: str
    must: str
    expected: str = TRAP
    says: tuple[str, ...] = ()
    pins: str = "all"
    audit: str = "off"
    why: str = ""  # what there is to know of the answer
    stricter: Stricter | None = None

    @property
    def options(self) -> str:
        """What comes after the test preset."""
        return f":pins={self.pins}:audit={self.audit}"


PAGE = r"page {page} of pool"
ROWS = (
    Row(1, "read after free", "trap, page named, freed-by", says=(PAGE, r"freed by thread {thread}\b")),
    Row(2, "write after free", "trap", says=("stray write of a freed page", PAGE)),
    Row(3, "access after free, number reused within the quarantine", "trap", says=(f"{PAGE} .* is freed",)),
    Row(4, "read after evict", 'trap, "evicted"', says=(f"{PAGE} .* is evicted",)),
    Row(
        5,
        "read after unpin",
        'trap, "unpinned", last unpin named',
        says=(f"{PAGE} .* is unpinned", r"unpinned by thread {thread}\b"),
    ),
    Row(6, "write after unpin", "trap", says=("stray write of an unpinned page", PAGE)),
    Row(
        7,
        "write under a read pin",
        'trap, "read-only"',
        says=("stray write of a read-only page", f"{PAGE} .* is read-only"),
    ),
    Row(
        8,
        "write to a clean page that nobody latched (pins=write)",
        "trap",
        says=("stray write of a read-only page", PAGE),
        pins="write",
    ),
    Row(
        9,
        "overrun by one byte into an allocated neighbour",
        'trap, "red-zone", which page',
        says=("red zone, 1 bytes past the last one of page {page} of pool", "address {address}"),
    ),
    Row(10, "underrun by one byte", "trap", says=("red zone, 1 bytes before page {page} of pool", "address {address}")),
    Row(
        11,
        "wild pointer into a page never allocated",
        "trap, nearest pages named",
        says=(f"{PAGE} .* is unallocated", "neighbours: .* past the end of page 47"),
    ),
    Row(
        12,
        "memcpy that runs from a live page into a freed one",
        "trap at the exact first byte",
        says=("address {address}", r"page {page}\b"),
        why="The program's copy goes forwards; which stray byte the C library's memcpy meets first is its own affair. "
        "After the live page comes a red zone, or a gap by hand; for bufpool, production, it is the freed page itself.",
    ),
    Row(
        13,
        "double free",
        "error naming the first free",
        ERROR,
        says=("double free of page {page}", r"freed .*by thread {thread}\b"),
    ),
    Row(
        14,
        "free of a pinned page",
        "error naming the pin",
        ERROR,
        says=(r"page {page} .* pinned by thread {thread}\b",),
    ),
    Row(15, "unpin without pin", "error", ERROR, says=(r"cannot unpin page {page}\b",)),
    Row(16, "free of a number of another pool", "error", ERROR, says=(r"cannot free page {page}\b",)),
    Row(17, "read(2) into a freed page", "EFAULT explained", EXPLAINED, says=("Bad address", f"{PAGE} .* is freed")),
    Row(18, "write(2) from a freed page", "EFAULT explained", EXPLAINED, says=("Bad address", f"{PAGE} .* is freed")),
    Row(
        19,
        "readv over pages of which one is evicted",
        "explained, which iovec",
        EXPLAINED,
        says=(f"{PAGE} .* is evicted", "## iovec 1"),
    ),
    Row(20, "stray access in a child after fork", "trap, pid", says=(PAGE, r"of process {pid}\b")),
    Row(21, "stray access in a second thread", "trap, thread named", says=(PAGE, 'thread {thread} "{name}"')),
    Row(22, "stray access in a signal handler of the host", "trap", says=(PAGE,)),
    Row(23, "stray access in an attached process", "trap, process named", says=(PAGE, '"{name}" of process {pid}')),
    Row(
        24,
        "stale pointer after its frame was given to another page (replace)",
        "trap",
        says=(f"{PAGE} .* is freed",),
        why="Made as free, and allocate of another page at once.",
    ),
    Row(25, "access after close of the pool", 'trap, "closed"', says=(f"{PAGE} .* is closed",)),
    Row(26, "jump into a freed page", 'trap, "execute"', says=("stray execute of a freed page", PAGE)),
    Row(
        27,
        "clean page changed behind the pool's back (pins=off, audit on)",
        "audit names the page",
        AUDIT,
        says=(r"page {page}\b",),
        pins="off",
        audit="checksum",
        why="bufpool, test: audit=checksum. Clean pages that mprotect makes read-only are row 8.",
    ),
    Row(
        28,
        "right kind of page, wrong number, pinned by nobody (pins=all)",
        "trap",
        says=(f"{PAGE} .* is unpinned",),
    ),
    Row(
        29,
        "two threads: one unpins while the other still reads (pins=all)",
        "trap",
        says=(f"{PAGE} .* is unpinned",),
    ),
    Row(30, "freed in one process, read in another", "trap", says=(f"{PAGE} .* is freed", r"of process {pid}\b")),
    Row(
        31,
        "pointer kept across a rekey (SQLite page cache, pins=all)",
        "trap",
        says=("stray read of an evicted page", PAGE, r"evicted by thread {thread}\b"),
        why="SQLite itself, with bufpool's page cache; with its own for plain mmap, ASan and Valgrind; with one on the "
        "layer by hand for the others. An auto-vacuum gives the page a new number, by which SQLite has it pinned then.",
    ),
    Row(
        32,
        "read of a fresh page before anything was written to it",
        "pattern only: the value shows it, no trap",
        PATTERN,
        says=("## pattern fresh",),
        why="The program asks bufpool_pattern().",
    ),
    Row(33, "overrun inside a page, record into record", "no", NO),
    Row(34, "stale pointer to a number reused beyond the quarantine, pinned by its new owner", "no", NO),
    Row(35, "O_DIRECT read in flight into a page freed meanwhile", "no (documented)", NO),
    Row(
        36,
        "thread B writes a page that thread A has pinned for write",
        "page rights no, protection keys trap",
        NO,
        says=("stray write of a read-only page", PAGE, r"pinned by thread {pid}\b"),
        stricter=Stricter("protection keys", ":pin_keys=1", "test_pins_keys: two threads, anon/uffd, pins write"),
    ),
    Row(
        37,
        "child made by raw clone without the fork handlers",
        "no (documented)",
        NO,
        says=("of the parent's pool", PAGE),
        why="More than asked: past the fork handlers a child has nothing of the pool mapped, whatever its memory and "
        "trap, so that every access traps, a right one too. The limit that stays: such a child cannot use the pool.",
    ),
    Row(
        38,
        "process that maps the memfd without attaching",
        "uffd no; noautofill traps holes",
        NO,
        stricter=Stricter(
            "noautofill",
            "",
            "test_noautofill: trap holds in a process that never attached",
            "it takes a kernel that has it",
        ),
    ),
)
