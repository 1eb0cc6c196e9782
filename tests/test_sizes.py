"""Sizes as people write them."""

from __future__ import annotations

import numpy as np
import pytest

from bufpool import ArgumentError, sizes


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (4096, 4096),
        (np.uint64(4096), 4096),
        ("4096", 4096),
        ("4096B", 4096),
        ("64 kB", 64_000),
        ("64KiB", 65_536),
        (" 64 mib ", 64 << 20),
        ("1 GiB", 1 << 30),
        ("1.5 GiB", 3 << 29),
        ("2TB", 2 * 10**12),
        ("16 TiB", 16 << 40),
    ],
)
def test_parse(value: object, expected: int) -> None:
    assert sizes.parse(value) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "value", [0, -1, "0", "-4096", "", "GiB", "1 XB", "1 GiB 2", "0x1000", "1.3 B", 2**64, "٣ GiB", "1e3"]
)
def test_wrong_values_are_named(value: object) -> None:
    with pytest.raises(ArgumentError) as caught:
        sizes.parse(value, "capacity")  # type: ignore[arg-type]
    assert f"capacity {value!r}" in str(caught.value)


@pytest.mark.parametrize("value", [None, 4096.0, True, b"4096", [4096]])
def test_wrong_types_are_named(value: object) -> None:
    with pytest.raises(TypeError) as caught:
        sizes.parse(value, "page_size")  # type: ignore[arg-type]
    assert f'page_size must be bytes as an integer, or text such as "1 GiB", not {value!r}' in str(caught.value)


@pytest.mark.parametrize("size", [1, 1000, 1536, 4096, 1 << 20, 3 << 29, 1 << 44, (1 << 40) + 1])
def test_text_can_be_parsed_again(size: int) -> None:
    assert sizes.parse(sizes.text(size)) == size
