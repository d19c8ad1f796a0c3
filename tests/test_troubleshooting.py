"""
What docs/troubleshooting.md quotes is what is printed.

A quoted line must be an instance of a message in the sources: of this package, or of the file of another package that
the mark above the block names. What a mark names otherwise (zsh, Python, torch's C++) cannot be looked up here.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "troubleshooting.md"
TEXT = PAGE.read_text(encoding="utf-8")
OWN = "monai_mamba_gen: error: "
QUOTES = [
    (printed_by, line.removeprefix(OWN))
    for printed_by, block in re.findall(
        r"(?:<!-- printed by: (\S+) -->\n)?^```text\n(.*?)^```", TEXT, flags=re.DOTALL | re.MULTILINE
    )
    for line in block.splitlines()
]
LEAST = 8  # letters that a message must have of its own, beside what is filled in
# What MONAI shows of a message that it wraps, or Python before it.
FRAMES = re.compile(r"^(?:\w+Error|\w+Warning): (?P<quote>['\"]?)(?P<message>.*?)(?P=quote)$")


def pattern(node: ast.expr) -> str | None:
    """Return a regular expression for the texts that a literal can become, None where it is none or says too little."""
    if isinstance(node, ast.JoinedStr):
        parts = [re.escape(part.value) if isinstance(part, ast.Constant) else None for part in node.values]
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        parts = [re.escape(part) for part in node.value.split("%s")]
        parts = [each for part in parts for each in (part, None)][:-1]
    else:
        return None
    said = sum(len(re.findall(r"[A-Za-z]", part)) for part in parts if part is not None)
    return None if said < LEAST else "".join(".+" if part is None else part for part in parts)


@functools.cache
def messages(path: Path) -> tuple[str, ...]:
    found = map(pattern, ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    return tuple({each for each in found if each is not None})


def own_messages() -> list[str]:
    return [each for path in sorted((ROOT / "monai_mamba_gen").rglob("*.py")) for each in messages(path)]


def is_printed(line: str, known: list[str] | tuple[str, ...], whole: bool = True) -> bool:
    """Whether a line is an instance of a message; parts of a long one are enough where it is put together."""
    match = FRAMES.match(line)
    texts = [line] if match is None else [line, match["message"]]
    find = re.fullmatch if whole else re.search
    return any(find(each, text + space) for each in known for text in texts for space in ("", " "))


def test_there_are_quotes_of_both_kinds() -> None:
    assert sum(not printed_by for printed_by, _ in QUOTES) > 15
    assert sum(printed_by.endswith(".py") for printed_by, _ in QUOTES) >= 4


@pytest.mark.parametrize("line", [line for printed_by, line in QUOTES if not printed_by])
def test_own_messages_are_in_the_sources(line: str) -> None:
    assert is_printed(line, own_messages()), "no message of the package reads like this; or name who prints it"


@pytest.mark.parametrize(("file", "line"), [quote for quote in QUOTES if quote[0].endswith(".py")])
def test_messages_of_others_are_in_their_sources(file: str, line: str) -> None:
    package, _, inside = file.partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None:
        pytest.skip(f"{package} is not installed")
    path = Path(spec.origin).parent / inside
    assert is_printed(line, messages(path), whole=False), f"{path} prints nothing like this any more"


def test_a_wrong_quote_is_noticed() -> None:
    assert is_printed(
        "here: no checkpoint to resume from; start without resume, or name another folder", own_messages()
    )
    assert not is_printed("here: no checkpoint to go on from; start without resume", own_messages())
    assert not is_printed("anything at all", own_messages())


def test_every_entry_has_cause_and_cure() -> None:
    entries = re.split(r"^### ", TEXT, flags=re.MULTILINE)[1:]
    assert len(entries) > 20
    for entry in entries:
        assert entry.count("**Cause:**") == entry.count("**Cure:**") == 1, entry.partition("\n")[0]


def test_the_locale_after_writing_dicom(write_dicom_series, tmp_path) -> None:
    """Delete the entry when ITK leaves the locale alone."""
    import locale

    import itk
    import numpy as np

    folder = write_dicom_series(tmp_path / "series", np.zeros((8, 8, 1)), np.eye(4))
    before = locale.setlocale(locale.LC_ALL)
    if before == "C":
        pytest.skip("the tests run in the locale C")
    try:
        itk.imwrite(itk.imread(str(next(folder.iterdir()))), str(tmp_path / "copy.dcm"))
        assert locale.setlocale(locale.LC_ALL) == "C"
    finally:
        locale.setlocale(locale.LC_ALL, before)
