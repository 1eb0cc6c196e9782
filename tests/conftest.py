"""What the tests share: pools of every memory and trap that works here, child processes, threads."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import bufpool

PAGE = 4096
CAPABILITIES = bufpool.capabilities()
TRAPPING = [entry for entry in CAPABILITIES.entries if entry.trap != "none"]


@pytest.fixture(params=TRAPPING, ids=lambda entry: f"{entry.memory}-{entry.trap}")
def kind(request: pytest.FixtureRequest) -> bufpool.Capability:
    """Each memory with each trap; a skip says why one does not work here."""
    entry: bufpool.Capability = request.param
    if not entry.available:
        pytest.skip(f"{entry.memory}-{entry.trap}: {entry.reason}")
    return entry


PoolMaker = Callable[..., bufpool.Pool]


@pytest.fixture
def make_pool() -> Iterator[PoolMaker]:
    """Opens pools that are closed at the end; a stray access that nobody has asked for is then an error."""
    pools = []

    def make(capacity: Any = 64 * PAGE, **options: Any) -> bufpool.Pool:
        pool = bufpool.Pool(capacity, **options)
        pools.append(pool)
        return pool

    yield make
    for pool in pools:
        pool.close()


@pytest.fixture
def pool(make_pool: PoolMaker, kind: bufpool.Capability) -> bufpool.Pool:
    """64 pages of 4 KiB, of every kind."""
    return make_pool(memory=kind.memory, trap=kind.trap)


@pytest.fixture
def any_pool(make_pool: PoolMaker) -> bufpool.Pool:
    """64 pages of 4 KiB, for what does not depend on memory and trap."""
    return make_pool(name="any")


Child = Callable[..., "subprocess.CompletedProcess[str]"]

CHILD_PRELUDE = """
import ctypes, faulthandler, gc, os, resource, signal, sys, threading, time
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
import bufpool
PAGE = 4096
"""


@pytest.fixture
def child(tmp_path: Any) -> Child:
    """Runs a Python program in a process of its own, outside the checkout."""

    def run(program: str, *options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *options, "-c", CHILD_PRELUDE + textwrap.dedent(program)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    return run


@pytest.fixture
def in_thread() -> Callable[[Callable[[], Any]], Any]:
    """Calls a function in a thread of its own and returns its result or raises its error."""

    def run(function: Callable[[], Any]) -> Any:
        with ThreadPoolExecutor(1) as executor:
            return executor.submit(function).result(timeout=60)

    return run
