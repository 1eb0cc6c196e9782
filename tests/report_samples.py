"""Lines of a log for the tests of `bufpool report`."""

from __future__ import annotations

import json
from typing import Any

BASE = 0x7E0000000000


def event(kind: str = "free", **changes: Any) -> dict[str, Any]:
    members = {
        "event": kind,
        "sequence": 3,
        "time": "2026-11-23T03:00:00.000000Z",
        "thread_id": 77,
        "thread_name": "cleaner",
        "pid": 40,
        "process_name": "engined",
        "native_stack": ["/usr/lib/libengine.so+0x88", "/usr/bin/engined+0x14"],
        "caller": [],
    }
    return {**members, **changes}


def report(**changes: Any) -> dict[str, Any]:
    """A report as bufpool writes it; the address is that of the page."""
    page = changes.get("page", 9)
    page = page if isinstance(page, int) else 0
    members = {
        "sequence": 1,
        "time": "2026-11-23T03:00:02.500000Z",
        "pid": 40,
        "thread_id": 41,
        "thread_name": "worker",
        "process_name": "engined",
        "access": "write",
        "state": "freed",
        "address": hex(BASE + page * 4096 + 100),
        "pc": "0x7f0000001000",
        "pool": "buffers",
        "pool_address": hex(BASE),
        "pool_capacity": 1 << 30,
        "page": page,
        "offset": 100,
        "page_size": 4096,
        "memory": "anon",
        "trap": "uffd",
        "signal": 7,
        "raced": False,
        "forked": False,
        "lost": False,
        "below": None,
        "above": 10,
        "allocated": event("allocate", native_stack=[], caller=["/srv/load.py:3 in load", "/srv/load.py:9 in fill"]),
        "freed": event(),
        "native_stack": ["/usr/lib/libc.so.6+0x16d85a", "/usr/lib/libengine.so+0x5040", "/usr/bin/engined+0x900"],
    }
    return {**members, **changes}


def suppressed(**changes: Any) -> dict[str, Any]:
    members = {
        "suppressed": 5000,
        "time": "2026-11-23T03:10:00.000000Z",
        "pid": 40,
        "pool": "buffers",
        "pc": "0x7f0000001000",
        "place": "/usr/lib/libc.so.6+0x16d85a",
        "first_sequence": 1,
        "limit": 16,
    }
    return {**members, **changes}


def evil(text: str) -> bytes:
    """Lines all of whose texts are the given one."""
    stack = [text, text + "+0x1"]
    texts = dict.fromkeys(("pool", "thread_name", "state", "access", "memory", "trap", "in_syscall", "fork_note"), text)
    members = report(
        **texts,
        native_stack=stack,
        python_stack=[text],
        allocated=event(text, thread_name=text, native_stack=[text], caller=[]),
        freed=event(text, thread_name=text, native_stack=[text], caller=[text]),
    )
    return line(members) + line(suppressed(pool=text, place=text))


def line(members: dict[str, Any]) -> bytes:
    return json.dumps(members, separators=(",", ":")).encode() + b"\n"
