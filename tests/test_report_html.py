"""The page: self-contained, nothing of the log becomes markup, and what it shows is what the log says."""

from __future__ import annotations

import base64
import hashlib
import re
import stat
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from report_samples import event, evil, line, report, suppressed

from bufpool import cli

VOID = {"meta", "link", "img", "br", "hr", "input", "base"}
TAGS = """html head meta title style body main h1 h2 h3 p dl div dt dd details summary span small pre svg rect ol ul
    li b i section table thead tbody tr th td"""
ATTRIBUTES = {"lang", "charset", "http-equiv", "content", "name", "class", "viewbox", "preserveaspectratio", "role"}
ATTRIBUTES |= {"aria-label", "x", "y", "width", "height", "title", "tabindex", "scope"}


class Reader(HTMLParser):
    """The page's elements, each closed where it has to be."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.stack: list[str] = []
        self.found: list[tuple[str, dict[str, str | None], str]] = []
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), ""))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.stack and self.found:
            tag, attributes, text = self.found[-1]
            self.found[-1] = tag, attributes, text + data

    def texts(self, tag: str, style: str | None = None) -> list[str]:
        return [t for g, a, t in self.found if g == tag and (style is None or style in (a.get("class") or "").split())]


def page(tmp_path: Path, *lines: bytes, options: tuple[str, ...] = ()) -> str:
    (tmp_path / "log").write_bytes(b"".join(lines))
    out = tmp_path / "out.html"
    result = CliRunner().invoke(cli.main, ["report", str(tmp_path / "log"), "--html", str(out), *options])
    assert result.exit_code == 0, result.output
    return out.read_text(encoding="utf-8")


EVIL = (
    "</title></style></pre><script>alert(1)</script><img src=x onerror=alert(1)>"
    '"\' onmouseover="x\x00\x1b\u202e${x}$$\ud800'
)


def evil_page(tmp_path: Path) -> str:
    return page(tmp_path, evil(EVIL), EVIL.encode("utf-8", "surrogatepass") + b"\n")


def test_nothing_of_the_log_becomes_markup(tmp_path: Path) -> None:
    reader = Reader(evil_page(tmp_path))
    assert {tag for tag, _, _ in reader.found} <= set(TAGS.split())
    assert {name for _, attributes, _ in reader.found for name in attributes} <= ATTRIBUTES
    assert any("<script>alert(1)</script>" in text for text in reader.texts("pre"))


def test_it_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    text = evil_page(tmp_path)
    reader = Reader(text)
    policy = next(a["content"] for t, a, _ in reader.found if t == "meta" and a.get("http-equiv"))
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert style
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    assert "http:" not in style[1]


def test_it_shows_what_the_log_says(tmp_path: Path) -> None:
    reader = Reader(
        page(
            tmp_path,
            *(line(report(sequence=n, page=9 + n % 2, pid=40 + n % 2)) for n in range(1, 6)),
            line(report(sequence=9, state="evicted", page=500, freed=event("evict"), above=None)),
            line(suppressed(first_sequence=2)),
            b"garbage\n",
        )
    )
    facts = dict(zip(reader.texts("dt"), reader.texts("dd"), strict=True))
    assert facts["reports"] == "6"
    assert facts["only counted"] == "5,000"
    assert (facts["sites"], facts["pools"], facts["processes"], facts["threads"]) == ("2", "2", "2", "1")
    assert facts["lines that are no report"] == "1"
    assert facts["states"] == "5 freed, 1 evicted"
    assert reader.texts("div", "count") == ["5,005", "1"]
    assert reader.texts("span", "what") == ["stray write of a freed page", "stray write of an evicted page"]
    hits = [a["title"] for t, a, _ in reader.found if t == "li" and "hit" in (a.get("class") or "").split()]
    assert sorted(hits) == ["page 10, freed: 3 hits", "page 500, evicted: 1 hit", "page 9, freed: 2 hits"]
    assert any("freed by thread 77" in text for text in reader.texts("pre"))


def test_a_pool_of_16_tib_with_three_hits(tmp_path: Path) -> None:
    pages = (5, 1 << 30, (1 << 32) - 1)
    capacity = {"pool_capacity": 16 << 40, "pool_address": "0x0", "above": None}
    reader = Reader(page(tmp_path, *(line(report(sequence=n, page=p, **capacity)) for n, p in enumerate(pages))))
    assert reader.texts("p", "window") == [
        "pages 1 to 9",
        "pages 1,073,741,820 to 1,073,741,828",
        "pages 4,294,967,291 to 4,294,967,295",
    ]
    strip = [a for t, a, _ in reader.found if t == "rect" and a.get("height") == "1" and a.get("width") == "1"]
    assert [a["x"] for a in strip][:3] == ["0", "60", "239"]


def test_a_pool_of_one_page(tmp_path: Path) -> None:
    reader = Reader(page(tmp_path, line(report(page=0, pool_capacity=4096, above=None))))
    assert reader.texts("p", "window") == ["pages 0 to 0"]


def test_the_last_and_the_first_moment(tmp_path: Path) -> None:
    moments = ("0001-01-01T00:00:00.000000Z", "9999-12-31T23:59:59.999999Z")
    text = page(tmp_path, *(line(report(time=moment)) for moment in moments))
    assert "0001-01-01 00:00:00.000 UTC to 9999-12-31 23:59:59.000 UTC" in text


def test_counts_of_reports_that_are_not_there_are_told(tmp_path: Path) -> None:
    text = page(tmp_path, line(report()), line(suppressed(first_sequence=77, count=4321, suppressed=4321)))
    assert any("4321 more stray accesses" in remark for remark in Reader(text).texts("li"))


def test_the_page_is_private(tmp_path: Path) -> None:
    page(tmp_path, line(report()))
    assert stat.S_IMODE((tmp_path / "out.html").stat().st_mode) == 0o600


def test_the_page_on_standard_output(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(line(report(pool="Größe")))
    result = CliRunner().invoke(cli.main, ["report", str(tmp_path / "log"), "--html", "-"])
    assert result.exit_code == 0
    Reader(result.stdout)
    assert "Größe" in result.stdout
    assert "the page: 1 report of 1 site" in result.stderr


@pytest.mark.parametrize(
    "changes", [{"page": 1 << 63}, {"pool_capacity": 0}, {"page_size": 1 << 63}, {"above": 1 << 63}]
)
def test_numbers_that_make_no_sense(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert "stray write of a freed page" in page(tmp_path, line(report(**changes)), line(report(sequence=2)))


def test_a_long_log_makes_a_short_page(tmp_path: Path) -> None:
    lines = (
        line(report(sequence=n, page=n * 37 % 200_000, native_stack=[f"/x+{n % 500:#x}"])) for n in range(1, 10_001)
    )
    text = page(tmp_path, *lines)
    assert len(text) < 2_000_000
    assert "and 400 sites more" in text
    Reader(text)


def test_an_empty_log_makes_a_page(tmp_path: Path) -> None:
    assert "There are no reports in this log" in page(tmp_path)


def test_it_cannot_be_written_over_the_log_or_nowhere(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(line(report()))
    for out, sentence in (
        (log, "is the log itself"),
        (tmp_path / "no/x", "No such file"),
        (tmp_path, "Is a directory"),
    ):
        result = CliRunner().invoke(cli.main, ["report", str(log), "--html", str(out)])
        assert result.exit_code == 1
        assert sentence in result.output
    assert log.read_bytes() == line(report())


def test_the_template_is_installed() -> None:
    assert (resources.files("bufpool") / "report_page.html").is_file()
