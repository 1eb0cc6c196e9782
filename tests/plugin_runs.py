"""What the tests of the pytest plugin share: a sample suite in a pytest of its own."""

from __future__ import annotations

import pytest

PRELUDE = """
import asyncio, multiprocessing, os, subprocess, sys, threading, unittest
import bufpool
import pytest

def stray(pool, way="view"):
    page = pool.allocate(b"a row")
    page.free()
    return page[0] if way == "guarded" else page.array("u1")[0]

def swallowed(pool):
    try:
        stray(pool, "guarded")
    except bufpool.StrayAccessError:
        pass
"""


def run(pytester: pytest.Pytester, source: str, *arguments: str) -> pytest.RunResult:
    """Warnings are errors, but for one: of a fork under xdist."""
    pytester.makepyfile(PRELUDE + source)
    warnings = ("-W", "error", "-W", "ignore:This process .* is multi-threaded:DeprecationWarning")
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", *warnings, *arguments, timeout=100)
