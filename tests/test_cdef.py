"""The cffi declarations against the C headers: a function missing from the cdef would be silent."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import bufpool
from bufpool._native import ffi, lib

NATIVE = Path(__file__).parent.parent / "native"
HEADERS = [NATIVE / "include/bufpool/bufpool.h", NATIVE / "sqlite/bufpool_sqlite.h"]
CDEF = NATIVE / "python/bufpool.cdef.h"

FUNCTION = re.compile(r"(?:^|(?<=[;}]))([\w\s*]+?\bbufpool_\w+\((?:[^()]|\([^()]*\))*\));")
TYPE = re.compile(r"typedef (?:struct|enum) \w+ \{[^}]*\} \w+;|typedef [^{};]+;")


def code(path: Path) -> str:
    """A header's declarations: no comments, no preprocessor, single spaces."""
    text = re.sub(r"/\*.*?\*/", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    text = re.sub(r"^#ifdef __cplusplus.*?^#endif", "", text.replace("\\\n", ""), flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^#.*$", "", text, flags=re.MULTILINE).replace("BUFPOOL_API", "")
    text = re.sub(r"\s*([(){},;*=])\s*", r"\1", re.sub(r"\s+", " ", text))
    return text.strip()


def functions(path: Path) -> dict[str, str]:
    without_types = TYPE.sub(";", code_with_spaces(path))
    found = {}
    for match in FUNCTION.finditer(without_types):
        signature = match[1].strip()
        name = re.search(r"(bufpool_\w+)\(", signature)
        assert name
        found[name[1]] = signature
    return found


def code_with_spaces(path: Path) -> str:
    return re.sub(r"([{};])", r"\1", re.sub(r"\{", " {", re.sub(r"\}", "} ", code(path)))).replace("; ", ";")


def types(path: Path) -> set[str]:
    return set(TYPE.findall(code_with_spaces(path)))


def constants(path: Path) -> dict[str, int]:
    lines = re.findall(
        r"^#define (BUFPOOL_\w+) \(?(-?(?:0x[0-9A-Fa-f]+|\d+))u?\)?", path.read_text(), flags=re.MULTILINE
    )
    return {name: int(value, 0) for name, value in lines}


@pytest.mark.parametrize("header", HEADERS, ids=lambda path: path.name)
def test_functions_are_declared_with_the_same_signature(header: Path) -> None:
    expected = functions(header)
    assert len(expected) == len(
        set(re.findall(r"(\bbufpool_\w+)\((?=[^;]*\);)", TYPE.sub(";", code_with_spaces(header))))
    )
    assert len(expected) > 5
    declared = functions(CDEF)
    assert {name: declared.get(name) for name in expected} == expected
    for name in expected:
        assert callable(getattr(lib, name))


@pytest.mark.parametrize("header", HEADERS, ids=lambda path: path.name)
def test_types_are_declared_alike(header: Path) -> None:
    expected = types(header)
    assert len(expected) > 2
    assert expected <= types(CDEF)


@pytest.mark.parametrize("header", HEADERS, ids=lambda path: path.name)
def test_constants_are_declared_alike(header: Path) -> None:
    declared = constants(CDEF)
    for name, value in constants(header).items():
        assert declared.get(name) == value == getattr(lib, name)


def test_everything_declared_is_in_a_header_or_the_prelude() -> None:
    known = {name for header in [*HEADERS, NATIVE / "python/prelude.h"] for name in functions_defined(header)}
    assert set(functions(CDEF)) <= known


def functions_defined(path: Path) -> set[str]:
    return set(re.findall(r"\b(bufpool_\w+)\(", code(path)))


def test_the_stub_names_everything() -> None:
    stub = (NATIVE.parent / "bufpool/_native.pyi").read_text(encoding="utf-8")
    for name in dir(lib):
        assert re.search(rf"\b{name}\b", stub), name
    for name in re.findall(r"def (bufpool_\w+)", stub):
        assert hasattr(lib, name), name


def test_sizes_that_the_abi_fixes() -> None:
    assert ffi.sizeof("bufpool_location") == 32
    assert ffi.sizeof("bufpool_config") == 176


def test_the_version_is_that_of_the_header() -> None:
    assert f'#define BUFPOOL_VERSION "{bufpool.__version__}"' in HEADERS[0].read_text(encoding="utf-8")


def test_every_public_name_is_there() -> None:
    for name in bufpool.__all__:
        assert getattr(bufpool, name) is not None
    with pytest.raises(AttributeError, match="'bufpool' has no attribute 'nothing'"):
        bufpool.nothing  # noqa: B018
