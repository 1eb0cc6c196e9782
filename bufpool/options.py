"""What a pool is opened with, and attached to: the fields of bufpool_config, checked and made ready for C.

What is not said in Python may be said from outside, as BUFPOOL_OPTIONS: defaults for the pools made from then on.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar, cast

from bufpool import sizes
from bufpool._native import ffi, lib
from bufpool.arguments import c_path, c_text, depth_argument, limit_argument, nodes_text
from bufpool.errors import ArgumentError, failure

FLAGS = {
    "lazy_zero": lib.BUFPOOL_LAZY_ZERO,
    "host_handler": lib.BUFPOOL_HOST_HANDLER,
    "lock": lib.BUFPOOL_LOCK,
    "dump": lib.BUFPOOL_DUMP,
    "reserve": lib.BUFPOOL_RESERVE,
    "discard": lib.BUFPOOL_DISCARD,
    "monitor": lib.BUFPOOL_MONITOR,
    "red_zones": lib.BUFPOOL_RED_ZONES,
    "scrub": lib.BUFPOOL_SCRUB,
    "pin_keys": lib.BUFPOOL_PIN_KEYS,
    "check_headroom": lib.BUFPOOL_CHECK_HEADROOM,
    "fixed_address": lib.BUFPOOL_FIXED_ADDRESS,
}


def sizes_of(
    capacity: sizes.Size, page_size: sizes.Size | None, granule: sizes.Size | None, quarantine: sizes.Size
) -> dict[str, int]:
    """In bytes; 0: what the memory has for it."""
    return {
        "capacity": sizes.parse(capacity, "capacity", "from one page to 16 TiB"),
        "page_size": 0
        if page_size is None
        else sizes.parse(page_size, "page_size", "from 4 KiB to 1 GiB, or None for one granule"),
        "granule": 0 if granule is None else sizes.parse(granule, "granule", "a huge page size of this machine"),
        "quarantine": quarantine_argument(quarantine),
    }


def quarantine_argument(quarantine: sizes.Size) -> int:
    """In bytes; unlike other sizes it may be 0."""
    if quarantine == 0 and quarantine is not False:
        return 0
    return sizes.parse(quarantine, "quarantine", "0, for none, or more")


def texts(
    memory: str | os.PathLike[str], name: str | None, numa: str | Iterable[int] | None, fill: str
) -> dict[str, Any]:
    """What the pool is, for all who have it."""
    return {
        "memory": c_path(memory, "memory") if isinstance(memory, os.PathLike) else c_text(memory, "memory"),
        "name": ffi.NULL if name is None else c_text(name, "name"),
        "numa": ffi.NULL if numa is None else c_text(nodes_text(numa), "numa"),
        "fill": c_text(fill, "fill"),
    }


def own(
    *,
    trap: str,
    on_fault: str,
    log: str | bytes | os.PathLike[str] | os.PathLike[bytes] | None,
    report_limit: int | None,
    provenance: str,
    provenance_depth: int | None,
    fork: str,
    pins: str,
    audit: str = "off",
) -> dict[str, Any]:
    """The fields of bufpool_config that each process decides for itself."""
    return {
        "trap": c_text(trap, "trap"),
        "on_fault": c_text(on_fault, "on_fault"),
        "log": ffi.NULL if log is None else c_path(log, "log"),
        "report_limit": 0 if report_limit is None else limit_argument(report_limit),
        "provenance": c_text(provenance, "provenance"),
        "provenance_depth": depth_argument(provenance_depth),
        "fork": c_text(fork, "fork"),
        "pins": c_text(pins, "pins"),
        "audit": c_text(audit, "audit"),
    }


def flags(**chosen: bool) -> int:
    """Those that are wanted; reports are always told to Python."""
    return sum((FLAGS[name] for name, wanted in chosen.items() if wanted), lib.BUFPOOL_TELL)


def path_of_pool(pool: Any) -> str:
    """Of a pool that is attached to by name: a path with a slash, as the memory of a pool is."""
    if not isinstance(pool, (str, os.PathLike)):
        raise TypeError(f"pool must be a PoolHandle, or a path as text or path-like, not {type(pool).__name__}")
    path = os.fsdecode(pool)
    if "/" in path:
        return path
    if isinstance(pool, str):
        raise ArgumentError(f"pool {path!r} is not a path, which has a slash: other pools have no name, but a handle()")
    return f"./{path}"


# ---- From outside ----------------------------------------------------------------------------------------------------

Opener = TypeVar("Opener", bound=Callable[..., Any])
_defaults: dict[str, Any] = {}  # by the names of Pool's arguments


def configure(options: str) -> None:
    """Sets defaults for the Pools that this process makes from now on: what a call does not say itself.

    options is "key=value:key='another value'"; the keys are arguments of Pool, of attach() and of sqlite.install(),
    which take those that they have; what does not go with what a call says itself (sample with pins="all", red_zones
    with reserve, fill with lazy_zero, free_lag with quarantine) gives way. preset=test and preset=production stand for
    several, help=1 writes all keys to stderr. Each call replaces what the one before has set; "" ends it. Raises
    ArgumentError.
    """
    _configure(lambda config: lib.bufpool_config_from_options(config, c_text(options, "options")))


def configure_from_environment() -> None:
    """The same with what the environment variable BUFPOOL_OPTIONS says; not set, it is as ""."""
    _configure(lib.bufpool_config_from_environment)


def _configure(read: Callable[[Any], int]) -> None:
    usual = c_text("raise", "on_fault")  # for help=1: unlike C's
    config = ffi.new("bufpool_config *", {"size": ffi.sizeof("bufpool_config"), "on_fault": usual})
    code = read(config)
    if code:
        raise failure(code)
    if config.on_fault == usual:
        config.on_fault = ffi.NULL
    found: dict[str, Any] = {name: True for name, flag in FLAGS.items() if config.flags & flag}
    for name, field in ffi.typeof("bufpool_config").fields:
        value = getattr(config, name)
        if value and name not in ("size", "flags"):
            found[name] = os.fsdecode(ffi.string(value)) if field.type.kind == "pointer" else int(value)
    _defaults.clear()
    _defaults.update(found)


def exchange(options: dict[str, Any]) -> dict[str, Any]:
    """Sets the defaults by the names of Pool's arguments, and returns those before."""
    before = dict(_defaults)
    _defaults.clear()
    _defaults.update(options)
    return before


class Attendant(Protocol):
    """Who wants to be there when a pool is opened: see bufpool.testing."""

    def before(self, options: dict[str, Any]) -> None:
        """May change the options, the defaults among them."""

    def after(self, options: dict[str, Any], pool: Any) -> None:
        """The pool is open."""


attendants: list[Attendant] = []  # the latest last


def _gives_way(name: str, given: dict[str, Any]) -> bool:
    """Whether a default does not go with what a call says itself, though either is right."""
    if name == "fill":
        return bool(given.get("lazy_zero"))
    if name == "red_zones":
        return bool(given.get("reserve"))
    if name == "free_lag":
        file = given.get("memory", "anon") not in ("anon", "thp")
        looked_for = given.get("pins", "off") != "off" or given.get("audit", "off") != "off" or given.get("sample")
        return bool(file or looked_for or given.get("quarantine") or given.get("lazy_zero"))
    if name in ("quarantine", "sample", "seed") and given.get("free_lag"):
        return True
    if name in ("sample", "seed"):
        audited, untrapped = given.get("audit") == "checksum", given.get("trap") == "none"
        return given.get("pins") in ("write", "all") or bool(given.get("pin_keys")) or audited or untrapped
    return False


def configurable(function: Opener) -> Opener:
    """A function that opens pools: what its caller does not say is as configured."""
    known = inspect.signature(function).parameters

    @functools.wraps(function)
    def with_defaults(*arguments: Any, **given: Any) -> Any:
        defaults = {name: value for name, value in _defaults.items() if name in known and not _gives_way(name, given)}
        options = {**defaults, **given}
        for attendant in attendants:
            attendant.before(options)
        opened = function(*arguments, **options)
        for attendant in attendants:
            attendant.after(options, arguments[0] if opened is None and arguments else opened)
        return opened

    return cast("Opener", with_defaults)
