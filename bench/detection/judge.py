"""Judges what a program and its detector have written: is it the detector that says so, and does it name the page?"""

from __future__ import annotations

import re
import signal

import attrs

TRAPS = (-signal.SIGSEGV, -signal.SIGBUS, -signal.SIGILL)
# The first that matches is how it was detected; the groups are what is shown of it.
SIGNS = (
    ("explained", r"## explained \n(.*)"),
    ("trap", r"(==ERROR: bufpool: stray .*)"),
    ("error", r"## error (.*)"),
    ("audit", r"## audit (.*)"),
    ("pattern", r"## pattern (.*)"),
    ("report", r"(ERROR: AddressSanitizer: .*)"),
    (
        "report",
        r"==\d+== ((?:Invalid |Conditional jump|Use of uninit|Syscall param|Jump to|Process terminating).*)",
    ),
    ("EFAULT", r"## failed (.*Bad address)"),
    ("signal", r"## died (7|11)\b"),
)
# Who freed, evicted or unpinned the page last: bufpool by thread and stack, Valgrind by stack.
BLAME = r"(?:freed|evicted|unpinned|pinned) (?:.* )?by thread T?\d+|is \d+ bytes inside a block of size [\d,]+ free'd"


@attrs.frozen
class Outcome:
    """What came of one run."""

    detected: bool
    how: str = ""
    page_named: bool = False
    blamed: bool = False  # it says who freed, evicted, unpinned or has pinned the page
    evidence: str = ""  # the line that says so
    complete: bool = True  # all that the row's "must" asks for
    lacking: str = ""  # why it cannot be had here
    broken: str = ""  # the run itself went wrong: no answer

    @property
    def answer(self) -> str:
        """As the table has it."""
        if self.broken:
            return "broken"
        if self.lacking:
            return "not here"
        return self.how if self.detected else "no"


def sign(text: str) -> tuple[str, str]:
    """How the text says that something was detected, and where; empty if it does not."""
    for how, pattern in SIGNS:
        found = re.search(pattern, text)
        if found:
            return how, re.sub(r"==\d+==|0x[0-9a-f]+", "", found[1]).strip()
    return "", ""


def announced(line: str) -> dict[str, str]:
    """What the program says that a report has to name."""
    return dict(pair.split("=", 1) for pair in line.split() if "=" in pair)


def signs(inside: str, over: bool, code: int) -> tuple[str, str]:
    """As sign(), and what the program or its child died of."""
    how, evidence = sign(inside)
    if not how and not over and code in TRAPS:
        how, evidence = "signal", str(-code)
    return how, signal.Signals(int(evidence)).name if how == "signal" else evidence


def judge(text: str, code: int, says: tuple[str, ...]) -> Outcome:
    """The outcome of a run with the bug in it."""
    lacking = re.search(r"^## lacking (.*)", text, re.M)
    if lacking:
        return Outcome(False, lacking=lacking[1])
    before, mark, after = text.partition("## bug ")
    line, _, rest = after.partition("\n")
    inside, over, beyond = rest.partition("## over")
    how, evidence = signs(inside, bool(over), code)
    broken = re.search(r"^## broken (.*)", text, re.M)
    wrong = (
        (broken is not None, f"it says: {broken[1] if broken else ''}"),
        (not mark, f"it ended with {code} before the bug: {before[-300:]}"),
        (sign(before)[0] != "", f"reported before the bug: {sign(before)[1]}"),
        (not how and sign(beyond)[0] == "signal", "it died, but only after the bug was over"),
        (not how and not over, f"it ended with {code} amid the bug, and nobody says why: {inside[-300:]}"),
    )
    for is_wrong, why in wrong:
        if is_wrong:
            return Outcome(False, broken=why)
    names = announced(line)
    named = re.search(rf"\bpage {names['page']}\b", inside) is not None
    complete = all(
        re.search(re.sub(r"\{(\w+)\}", lambda key: re.escape(names[key[1]]), pattern), inside) for pattern in says
    )
    blamed = re.search(BLAME, inside) is not None
    return Outcome(bool(how), how, bool(how) and named, bool(how) and blamed, evidence, complete)


def judge_correct(text: str, code: int) -> str:
    """What is wrong with a run without the bug: nothing may be reported, and it has to end well. Empty: nothing is."""
    if re.search(r"^## lacking ", text, re.M):
        return ""
    how, evidence = sign(text)
    if how:
        return f"{how} where there is no bug: {evidence}"
    if code != 0 or "## over" not in text:
        return f"the correct program ended with {code}: {text[-300:]}"
    return ""
