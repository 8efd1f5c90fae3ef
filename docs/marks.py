"""The parts of a page that a command writes, between two marks."""

from __future__ import annotations

from pathlib import Path

END = "<!-- end of what is written by it -->"


def begin(script: str) -> str:
    """The first mark of what a script of this folder writes."""
    return f"<!-- written by: python docs/{Path(script).name} -->"


def written(page: str, script: str, text: str) -> str:
    """A page with the part that a script writes made anew."""
    mark = begin(script)
    assert page.count(mark) == 1, f"the page must hold the line {mark} once"
    before, rest = page.split(mark)
    return f"{before}{mark}\n\n{text}\n\n{END}{rest.split(END, 1)[1]}"
