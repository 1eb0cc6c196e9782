"""The library's own structures, read from a process or a core dump without debug information: for bufpool_gdb.py.

The library says itself where its fields are (native/src/postmortem.h). Every read is checked, and every loop ends: what
is damaged or missing is a TroubleError with a sentence.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

import gdb

MAGIC = b"bufpool layout\0\0"
VERSION = 3
HEAD = struct.Struct("=16sII16sQq")  # struct bp_postmortem up to its fields
FIELD = struct.Struct("=24sII")
FIELDS_MOST = 1024
POOLS_MOST = 65536
RING_MOST = 1 << 24  # bytes
SEGMENT_MOST = 1 << 28  # bytes of a core dump to search at once
STACK_MOST, TEXT_MOST = 64, 4096  # frames, bytes


class TroubleError(Exception):
    """What cannot be shown, as a sentence."""


class Mapping(NamedTuple):
    """A part of a mapped file; base is where the file's first part is."""

    first: int
    last: int
    base: int
    path: str


MAPPING = re.compile(r"^\s*(0x\w+)\s+(0x\w+)\s+0x\w+\s+0x\w+\s+(?:[-rwxsp]{4}\s+)?(/.*\S)\s*$", re.MULTILINE)


def modules_of() -> list[Mapping]:
    """The mapped files of the process."""
    try:
        lines = MAPPING.findall(gdb.execute("info proc mappings", to_string=True))
    except gdb.error:  # a dump without them
        return []
    bases: dict[str, int] = {}
    parts = ((int(first, 16), int(last, 16), path) for first, last, path in lines)
    return [Mapping(first, last, bases.setdefault(path, first), path) for first, last, path in parts]


def mapping_at(address: int, modules: list[Mapping]) -> Mapping | None:
    """The mapped file at an address."""
    return next((each for each in modules if each.first <= address < each.last), None)


# ---- The library -----------------------------------------------------------------------------------------------------


def read(address: int, size: int, what: str) -> bytes:
    """Memory of the process or the dump."""
    try:
        return bytes(gdb.selected_inferior().read_memory(address, size))
    except (gdb.error, OverflowError, ValueError):
        raise TroubleError(
            f"cannot read {what} ({size} bytes at {address:#x}): it is not in this core dump, or what points to it is "
            "damaged"
        ) from None


DUMPED = re.compile(r"(0x\w+)->(0x\w+) at 0x\w+: load\w+ .*\bHAS_CONTENTS\b")


def is_missing(address: int) -> bool:
    """Is this a core dump that was made without the memory at an address? gdb itself shows zeros there."""
    if "core" not in str(getattr(gdb.selected_inferior().connection, "type", "")):
        return False
    dumped = DUMPED.findall(gdb.execute("maintenance info sections", to_string=True))
    return not any(int(first, 16) <= address < int(last, 16) for first, last in dumped)


def text_of(raw: bytes) -> str:
    """A C string; a terminal is not to be steered by what is in it."""
    text = raw.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


class Library:
    """One copy of the library: where the fields of its structures are."""

    def __init__(self, address: int, module: str) -> None:
        self.address = address
        head = HEAD.unpack(read(address, HEAD.size, "bufpool's layout"))
        _, version, size, library, self.first_pool, self.epoch_ns = head
        self.title = f"bufpool {text_of(library)} in {module}"
        if version != VERSION:
            raise TroubleError(
                f"{self.title} has layout {version}, and this script knows {VERSION}: take that library's script"
            )
        count = (size - HEAD.size) // FIELD.size
        if not 0 < count <= FIELDS_MOST:
            raise TroubleError(f"{self.title} says that its layout has {size} bytes: it is damaged")
        raw = read(address + HEAD.size, count * FIELD.size, "bufpool's layout")
        named = ((text_of(name), (offset, length)) for name, offset, length in FIELD.iter_unpack(raw))
        self.fields = {name: place for name, place in named if name}

    def place(self, name: str) -> tuple[int, int]:
        """Offset and size of a field."""
        if name not in self.fields:
            raise TroubleError(f"{self.title} does not say where {name} is: take that library's script")
        return self.fields[name]

    def constant(self, name: str) -> int:
        """The value that the library gave a name."""
        return self.place(name)[0]

    def word(self, group: str, value: int) -> str:
        """The name of a constant: word("state", 2) is "freed"."""
        for name, (constant, size) in self.fields.items():
            if size == 0 and constant == value and name.startswith(f"{group}."):
                return name.partition(".")[2]
        return f"{group} {value}"


class Struct:
    """A structure of the library, at an address or, with raw, as bytes."""

    def __init__(self, library: Library, kind: str, at: int, raw: bytes | None = None) -> None:
        self.library = library
        self.kind = kind
        self.at = at
        self.copy = raw

    def raw(self, field: str) -> bytes:
        """The bytes of a field."""
        offset, size = self.library.place(f"{self.kind}.{field}")
        if self.copy is None:
            return read(self.at + offset, size, f"{self.kind}.{field}")
        return self.copy[offset : offset + size]

    def number(self, field: str) -> int:
        """An integer."""
        return int.from_bytes(self.raw(field), "little", signed=False)

    def text(self, field: str) -> str:
        """A name that lies in the structure itself."""
        return text_of(self.raw(field)).replace("\n", "\\n")

    def word(self, field: str) -> str:
        """The name of an enumeration's value."""
        return self.library.word(field, self.number(field))


SECTION = re.compile(r"^\s*(0x[0-9a-f]+) - (0x[0-9a-f]+) \S+ (\.bufpool|load\w+)(?: \S+ (.*))?$", re.MULTILINE)


def layouts(start: int, end: int) -> Iterator[int]:
    """Where the layouts in a range of memory begin."""
    at: int | None = start
    while at is not None and end - at >= HEAD.size:
        try:
            at = gdb.selected_inferior().search_memory(at, end - at, MAGIC)
        except gdb.error as error:
            raise TroubleError(f"cannot read [{start:#x}, {end:#x}): {error}") from None
        if at is not None:
            yield at
            at += len(MAGIC)


def libraries(trouble: list[str]) -> Iterator[Library]:
    """Every copy of the library: its layout is in an ELF section of its own, which was written to, and so is dumped."""
    space = gdb.current_progspace()
    if gdb.selected_thread() is None or space is None:
        raise TroubleError("there is no process: attach to one, run one, or open a core dump")
    ranges = [
        (int(first, 16), int(last, 16), section, module)
        for first, last, section, module in SECTION.findall(gdb.execute("info files", to_string=True))
    ]
    sections = [each for each in ranges if each[2] == ".bufpool"]
    # A core dump whose program or libraries are not at hand: search it all.
    segments = [each for each in ranges if each[1] - each[0] <= SEGMENT_MOST]
    modules = modules_of()
    found = False
    for start, end, _, module in sections or segments:
        try:
            for place in layouts(start, end):
                found = True
                mapped = mapping_at(place, modules)
                yield Library(place, module or (mapped.path if mapped else space.filename) or "the program")
        except TroubleError as error:
            trouble.append(str(error))
    if not found:
        trouble.append(
            "no copy of bufpool was found; open a core dump together with its program, and see that gdb finds its "
            "libraries (info sharedlibrary, set sysroot)"
        )


# ---- Pools and faults ------------------------------------------------------------------------------------------------


class Pool(Struct):
    """A descriptor that is in use."""

    def __init__(self, library: Library, at: int) -> None:
        super().__init__(library, "pool", at)
        self.first = self.number("first")
        self.end = self.number("end")
        self.page_size = self.number("page_size")
        self.name = self.text("name")
        self.closed = self.number("closed") != 0
        self.lead = self.number("lead")  # bytes of the red zone before each page, and after the last
        capacity = self.number("capacity")
        pages = capacity // (self.page_size or 1)
        room = capacity + (pages + 1) * self.lead
        if self.end - self.first != room or self.page_size == 0 or capacity % self.page_size:
            raise TroubleError(
                f"the pool at {at:#x} is damaged: its addresses, capacity and page size do not fit together"
            )
        self.count = capacity // self.page_size

    def trap(self) -> str:
        """The name of its trap."""
        try:
            name = Struct(self.library, "trap", self.number("trap")).number("name")
            return text_of(read(name, 12, "the trap's name"))
        except TroubleError:  # it is in the library's file, which gdb may not have found
            return "(name not in this dump)"

    def demand(self, address: int, what: str) -> None:
        """Of tables that processes share a dump may hold a part only, and the rest of them reads as zeros."""
        if self.number("members") and is_missing(address):
            raise TroubleError(f"{what} is not in this core dump, which holds only a part of shared tables")

    def state_word(self, page: int) -> int:
        """Of an open pool."""
        at, what = self.number("states") + 2 * page, f"the state of page {page}"
        self.demand(at, what)
        return int.from_bytes(read(at, 2, what), "little")

    def members(self) -> Iterator[tuple[int, str]]:
        """The processes that have it, and the names of their main threads; none, if its tables are not shared."""
        library = self.library
        size, most, table = library.constant("member.bytes"), library.constant("members.most"), self.number("members")
        last = Struct(library, "counts", self.number("counts")).number("last_member") if table else 0
        for number in range(1, min(last, most) + 1):
            entry = Struct(library, "member", table + number * size)
            self.demand(entry.at + size - 1, f"process {number} of those that have it")
            if entry.number("present"):
                yield entry.number("pid"), entry.text("name")

    def changer(self, word: int) -> str:
        """Who is changing a page."""
        busy, table = self.library.constant("page.busy"), self.number("members")
        number = (word & busy) // (busy & -busy)
        if table == 0 or number == 0:
            return ""
        entry = Struct(self.library, "member", table + number * self.library.constant("member.bytes"))
        self.demand(entry.at, "who changes the page")
        return f' by process {entry.number("pid")} "{entry.text("name")}"'

    def state(self, word: int) -> str:
        """The word for a state word; a page on its way counts as what it becomes while it is being taken away."""
        constant = self.library.constant
        if word & constant("page.freeing"):
            return "freed"
        if word & constant("page.evicting"):
            return "evicted"
        return self.library.word("state", word & constant("page.mask"))

    def flags(self, word: int) -> str:
        """What else a state word says."""
        constant = self.library.constant
        if word & constant("page.freeing") and not word & constant("page.busy"):
            return "; its frame lags (free_lag), so that it does not trap yet"
        said = {
            "page.busy": f"being changed at this moment{self.changer(word)}",
            "page.scratch": "shows the scratch pattern after a stray access",
        }
        return "".join(f"; {text}" for name, text in said.items() if word & self.library.constant(name))

    def history(self, page: int) -> list[Event]:
        """Who freed (or evicted) the page last, or closed the pool since; and who allocated (or populated) it last."""
        if self.number("provenance") == 0:
            return []
        library = self.library
        size, records, stacks = library.constant("record.bytes"), self.number("records"), self.number("stacks")
        self.demand(records + page * size, f"what is recorded of page {page}")
        record = read(records + page * size, size, f"what is recorded of page {page}")
        kept = library.constant("stacks.bytes")
        if stacks:
            self.demand(stacks + page * kept, f"the stacks of page {page}")
        ids = read(stacks + page * kept, kept, f"the stacks of page {page}") if stacks else bytes(kept)
        given = self._event(record, ids, 0, ("allocated", "populated"))
        taken = self._event(record, ids, 1, ("freed", "evicted"))
        shared = Struct(library, "closing", self.number("provenance_counts"))
        closing = self._event(self.raw("closing"), self.raw("closing_stacks"), 1, ("closed", "closed")) or self._event(
            shared.raw("record"), shared.raw("stacks"), 1, ("closed", "closed")
        )
        last = [event.sequence if event else 0 for event in (taken, given)]
        if closing and not is_later(*last):
            taken = closing
        return [event for event in (taken, given) if event]

    def thread(self, number: int, tick: int) -> tuple[int, int, str, str]:
        """Whose number in the records it was at a tick: thread, process, their names; zeros if not known any more.

        The table is the process's own, or that of all processes that have the pool.
        """
        table, library = self.number("threads"), self.library
        offset, _ = library.place("threads.entries")
        entry = Struct(library, "thread", table + offset + number * library.constant("thread.bytes"))
        if number and table:
            self.demand(entry.at, "who did it")
        serial = entry.number("serial") if number and table else 0
        since_ever = serial == library.constant("thread.first")
        if (
            serial == 0
            or serial & library.constant("thread.writer")
            or (not since_ever and tick <= entry.number("since"))
            or entry.number("id") == 0
        ):
            return 0, 0, "", ""
        return entry.number("id"), entry.number("pid"), entry.text("name"), entry.text("process_name")

    def kept(self, number: int) -> tuple[bytes, str]:
        """A stack of the depot, and the text that names its caller."""
        library = self.library
        offset, size = library.place("depot.arena")
        depot, head = self.number("depot"), library.constant("kept.bytes")
        if number == 0 or depot == 0 or number * 8 + head > size:
            return b"", ""
        entry = Struct(library, "kept", depot + offset + number * 8)
        self.demand(entry.at, "a kept stack")
        room = size - number * 8 - head
        frames = min(entry.number("frames"), STACK_MOST, room // 8)
        length = min(entry.number("length"), TEXT_MOST, room)
        caller = entry.number("caller") if frames else 0
        text = self.kept(caller)[1] if caller < number else ""  # a text is kept before what refers to it
        if frames:
            return read(entry.at + head, frames * 8, "a kept stack"), text
        return b"", text_of(read(entry.at + head, length, "a kept text")) if length else ""

    def _event(self, record: bytes, ids: bytes, which: int, verbs: tuple[str, str]) -> Event | None:
        """An event of a record, as native/src/provenance.h says."""
        library = self.library
        raw = Struct(library, "record", 0, record)
        when = struct.unpack("=2Q", raw.raw("when"))[which]
        sequence = struct.unpack("=2I", raw.raw("sequence"))[which]
        stack = struct.unpack("=2I", Struct(library, "stacks", 0, ids).raw("id"))[which]
        if when == 0:
            return None
        opened = self.number("opened")
        tick = opened + ((when >> 24) - opened) % (1 << 40)
        thread = self.thread((when >> 8) & 0xFFFF, tick)
        frames, caller = self.kept(stack)
        places: tuple[str | None, ...] = ()
        if self.number("shared"):
            frames, places = self.foreign(frames)
            if thread[1] == self.number("process"):
                places = ()
        return Event(
            verbs[sequence & 1],
            (when & 0xFF) << 31 | sequence >> 1,
            (tick << library.constant("tick.bits")) + library.epoch_ns,
            thread,
            frames,
            caller,
            places,
        )

    def foreign(self, kept: bytes) -> tuple[bytes, tuple[str, ...]]:
        """A stack of a depot that is shared, and of each frame its module and offset, or "": native/src/places.h."""
        half = len(kept) // 16 * 8
        bits = self.library.constant("place.bits")
        found = []
        for (place,) in struct.iter_unpack("=Q", kept[half : 2 * half]):
            _, space, path = self.kept(place >> bits)[1].partition(" ")
            found.append(f"{path}+{place & ((1 << bits) - 1):#x}" if space else "")
        return kept[:half], tuple(found)

    def faults(self) -> list[Fault]:
        """The faults that it remembers, oldest first; without those that were being written."""
        entries, size = self.library.constant("ring.entries"), self.library.constant("entry.bytes")
        used = min(self.number("faults"), entries)
        if entries * size > RING_MOST:
            raise TroubleError(
                f"{self.library.title} says that a pool remembers {entries} faults of {size} bytes: damaged"
            )
        raw = read(self.number("ring"), used * size, "the remembered faults") if used else b""
        found = []
        for at in range(0, len(raw), size):
            entry = Struct(self.library, "entry", 0, raw[at : at + size])
            serial = entry.number("serial")
            if serial and serial % 2 == 0:
                found.append(Fault(self.library, entry.raw("fault")))
        return sorted(found, key=lambda fault: fault.number("sequence"))


class Fault(Struct):
    """One remembered fault."""

    def __init__(self, library: Library, raw: bytes) -> None:
        super().__init__(library, "fault", 0, raw)

    def flags(self) -> list[str]:
        """The names of the flags that are set."""
        bits, places = self.number("flags"), self.library.fields.items()
        return [name.partition(".")[2] for name, (bit, _) in places if name.startswith("flag.") and bit & bits]

    def history(self) -> Iterator[Event]:
        """Who pinned, freed (or unpinned) and allocated the page, as it was known when the fault was taken up."""
        for name in ("pinned", "freed", "allocated"):
            origin = Struct(self.library, "origin", 0, self.raw(name))
            if origin.number("sequence"):
                yield Event(
                    origin.word("event"),
                    origin.number("sequence"),
                    origin.number("time_ns"),
                    (
                        origin.number("thread_id"),
                        origin.number("pid"),
                        origin.text("thread_name"),
                        origin.text("process_name"),
                    ),
                    origin.raw("stack")[: origin.number("stack_depth") * 8],
                    text_of(origin.raw("caller")),
                    tuple("" if origin.number("foreign") >> i & 1 else None for i in range(STACK_MOST)),
                )


class Event(NamedTuple):
    """Who did something to a page."""

    verb: str
    sequence: int
    time_ns: int
    thread: tuple[int, int, str, str]  # id, process, their names; id 0: not known any more
    stack: bytes
    caller: str
    places: tuple[str | None, ...] = ()  # of frames of another process: module and offset, or "" if not known


def is_later(first: int, second: int) -> bool:
    """Sequence numbers are counted modulo 2^39."""
    return (second - first) % (1 << 39) > 1 << 38


def survey() -> tuple[list[Pool], list[str]]:
    """All pools that can be read, and what could not be, as sentences."""
    pools: list[Pool] = []
    trouble: list[str] = []
    for library in libraries(trouble):
        at = library.first_pool
        seen: set[int] = set()
        try:
            while at != 0:
                if at in seen or len(seen) == POOLS_MOST:
                    raise TroubleError(f"it does not end: after {len(seen)} pools it goes on at {at:#x}")
                seen.add(at)
                descriptor = Struct(library, "pool", at)
                if descriptor.number("first") != 0:
                    try:
                        pools.append(Pool(library, at))
                    except TroubleError as error:
                        trouble.append(str(error))
                at = descriptor.number("next")
        except TroubleError as error:
            trouble.append(f"the list of pools of {library.title} is damaged: {error}")
    return pools, trouble


def pool_at(address: int) -> Pool:
    """The pool that an address lies in; an open one before a closed one."""
    pools, trouble = survey()
    found = [pool for pool in pools if pool.first <= address < pool.end]
    if not found:
        raise TroubleError("\n".join([f"{address:#x} is in no pool: see bufpool pools", *trouble]))
    return min(found, key=lambda pool: pool.closed)
