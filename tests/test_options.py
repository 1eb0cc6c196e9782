"""Defaults from outside: configure(), BUFPOOL_OPTIONS."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import CAPABILITIES, NATIVE

import bufpool

CAPACITY = 64 * 4096


@pytest.fixture(autouse=True)
def _unconfigured() -> Iterator[None]:
    yield
    bufpool.configure("")


def test_defaults_are_for_what_a_call_does_not_say(tmp_path: Path) -> None:
    bufpool.configure(f"trap=mprotect:on_fault=resume:name=outside:provenance=last:log='{tmp_path}/log':lock=0")
    with bufpool.Pool(CAPACITY) as pool:
        assert (pool.trap, pool.on_fault, pool.name, pool.provenance) == ("mprotect", "resume", "outside", "last")
        page = pool.allocate()
        page.free()
        assert page.array("u1")[0] == bufpool.POISON
    assert '"page":0' in (tmp_path / "log").read_text()
    with bufpool.Pool(CAPACITY, name="mine", on_fault="raise", provenance="off", log=None) as pool:
        assert (pool.trap, pool.on_fault, pool.name, pool.provenance) == ("mprotect", "raise", "mine", "off")


def test_each_call_replaces_what_the_one_before_has_set() -> None:
    bufpool.configure("name=first:provenance=last")
    bufpool.configure("trap=mprotect")
    with bufpool.Pool(CAPACITY) as pool:
        assert (pool.trap, pool.provenance) == ("mprotect", "off")
        assert pool.name != "first"


def test_a_wrong_text_changes_nothing() -> None:
    bufpool.configure("name=kept")
    for text, sentence in {
        "trap=tripwire": "options: trap=tripwire is unknown here: valid are auto, noautofill, uffd, guard, ",
        "trp=uffd": 'options: unknown key "trp": memory, granule, trap,',
        "monitor=2": "options: monitor=2 is neither 1",
        "preset=mine": "options: preset=mine is unknown: valid are test, production",
        "capacity=1 GiB": 'unknown key "capacity"',
    }.items():
        with pytest.raises(bufpool.ArgumentError, match=re.escape(sentence)):
            bufpool.configure(text)
    with pytest.raises(TypeError, match="options must be text, not int"):
        bufpool.configure(1)  # type: ignore[arg-type]
    with bufpool.Pool(CAPACITY) as pool:
        assert pool.name == "kept"


def test_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUFPOOL_OPTIONS", "preset=test:name='a:b'")
    bufpool.configure_from_environment()
    with bufpool.Pool(CAPACITY) as pool:
        assert (pool.name, pool.provenance) == ("a:b", "stacks")
    monkeypatch.setenv("BUFPOOL_OPTIONS", "preset=test:preset=production")
    with pytest.raises(bufpool.ArgumentError, match="BUFPOOL_OPTIONS: preset is given twice"):
        bufpool.configure_from_environment()
    monkeypatch.delenv("BUFPOOL_OPTIONS")
    bufpool.configure_from_environment()
    with bufpool.Pool(CAPACITY) as pool:
        assert pool.provenance == "off"


def test_attached_pools_take_what_is_their_own() -> None:
    memory = next(entry for entry in CAPABILITIES.entries if (entry.memory, entry.trap) == ("shared", "uffd"))
    if not memory.available:
        pytest.skip(f"shared-uffd: {memory.reason}")
    with bufpool.Pool(CAPACITY, memory="shared", name="whole") as pool, pool.handle() as handle:
        bufpool.configure("on_fault=resume:name=outside:memory=anon:provenance=last")
        attached = bufpool.Pool.attach(handle)
        assert (attached.on_fault, attached.name, attached.provenance) == ("resume", "whole", "off")
        attached.close()


def test_help_names_every_argument_of_a_pool(capfd: pytest.CaptureFixture[str]) -> None:
    bufpool.configure("help=1")
    lines = capfd.readouterr().err.splitlines()
    assert lines[0].startswith("bufpool: options is key=value")
    keys = {line.split("=")[0].strip() for line in lines[1:]} - {"preset", "help"}
    arguments = set(inspect.signature(bufpool.Pool).parameters)
    assert keys <= arguments
    # What the program is built around, or what text cannot say.
    assert arguments - keys == {"capacity", "page_size", "on_report", "host_handler", "discard"}


def test_who_attaches_decides_all_but_what_is_the_pools() -> None:
    arguments = set(inspect.signature(bufpool.Pool).parameters)
    attached = set(inspect.signature(bufpool.Pool.attach).parameters)
    of_the_pool = {"capacity", "page_size", "granule", "memory", "name", "numa", "lazy_zero", "reserve", "discard"}
    of_the_pool |= {"provenance", "provenance_depth", "red_zones", "quarantine", "fill", "scrub"}
    of_one_process = {"audit", "free_lag"}
    assert arguments - attached == of_the_pool | of_one_process
    assert attached - arguments == {"pool", "fixed_address"}


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("preset=test", {"lazy_zero": True}),
        ("preset=production", {"pins": "write"}),
        ("preset=production", {"pins": "all"}),
        ("preset=production", {"audit": "checksum"}),
        ("preset=production", {"trap": "none"}),
        ("sample=10:seed=17", {"pins": "all"}),
        ("preset=production:pins=all", {}),
    ],
)
def test_a_default_gives_way_to_what_a_call_says(text: str, given: dict[str, Any]) -> None:
    bufpool.configure(text)
    with bufpool.Pool(CAPACITY, **given) as pool:
        page = pool.allocate()
        with page.pin():
            assert page[0] == 0
        assert pool.stats().sample == 0


def test_presets() -> None:
    bufpool.configure("preset=test")
    with bufpool.Pool(CAPACITY) as pool:
        page = pool.allocate()
        assert page[0] == bufpool.FRESH
        assert (pool.provenance, pool.red_zone, pool.stats().sample) == ("stacks", 4096, 0)
    bufpool.configure("preset=production")
    with bufpool.Pool(CAPACITY) as pool:
        page = pool.allocate()
        assert page[0] == 0
        page.free()
        statistics = pool.stats()
        assert (statistics.provenance, statistics.red_zone, statistics.sample) == ("last", 0, 1000)
        assert statistics.quarantined == 1


def test_help_is_the_table_of_the_library(capfd: pytest.CaptureFixture[str]) -> None:
    source = (NATIVE / "src/config_options.c").read_text(encoding="utf-8")
    keys = re.findall(r'^    (?:TEXT|SIZE|NUMBER|FLAG)\("?(\w+)', source, flags=re.MULTILINE)
    presets = re.findall(r'^    \{"(\w+)", "(.*)"\},', source, flags=re.MULTILINE)
    assert len(keys) >= 25
    assert [name for name, _ in presets] == ["test", "production"]
    bufpool.configure("help=1")
    lines = capfd.readouterr().err.splitlines()[1:]
    assert [line.split("=")[0].strip() for line in lines] == [*keys, "preset", "preset", "help"]
    shown = dict(re.findall(r"^  preset=(\w+) +(.*)$", "\n".join(lines), flags=re.MULTILINE))
    assert shown == dict(presets)
    readme = (NATIVE.parent / "README.md").read_text(encoding="utf-8")
    for name, options in presets:
        assert f"| `{name}` | `{options}` |" in readme


def test_help_shows_what_holds_without_a_key(capfd: pytest.CaptureFixture[str]) -> None:
    bufpool.configure("help=1")
    shown = dict(re.findall(r"^  (\w+)=(.*?)(?:  | [a-z0-9])", capfd.readouterr().err, flags=re.MULTILINE))
    for name, parameter in inspect.signature(bufpool.Pool).parameters.items():
        if name in shown and parameter.default is not None:
            default = int(parameter.default) if isinstance(parameter.default, bool) else parameter.default
            assert shown[name] == str(default), name
    with bufpool.Pool(CAPACITY) as pool:
        assert pool.on_fault == "raise"
