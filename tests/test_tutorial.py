"""docs/tutorial.md, followed by the letter: its commands are run, and what it shows is seen, but for the numbers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/tutorial.md"
_BLOCK = re.compile(r"^```(bash|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What varies in a line of output, and what may stand there instead.
_VARIES = re.compile(
    r"(?P<mixture>nds_data_\w+ \d+%(?:, nds_data_\w+ \d+%)*)|(?P<hash>\b[0-9a-f]{12}\b)|(?P<format>\bbf16\b)"
    r"|(?P<number>(?<!\w)-?\d+(?:\.\d+)?)|(?P<space>\s+)"
)
_ANY = {
    "mixture": r"nds_data_\w+ \d+%(?:, nds_data_\w+ \d+%)*",
    "hash": "[0-9a-f]{12}",
    "format": "(?:bf16|fp32)",
    "number": r"(?:-?\d+(?:\.\d+)?(?:e[-+]\d+)?|nan)",
    "space": r"\s+",
}
# The page's sizes, and those of a test. Each must be on the page.
SMALLER = {
    "'source': 240, 'client': 200": "'source': 16, 'client': 12",
    "'source': 10, 'client': 50": "'source': 4, 'client': 4",
    "domains=[": "size=(96, 72), domains=[",
    "--crop-size 64": "--crop-size 32",
    "SOLVER.MAX_ITER 100": "SOLVER.MAX_ITER 1",
    "SOLVER.STEPS '(80,)'": "SOLVER.STEPS '()'",
    "SOLVER.MAX_ITER 50": "SOLVER.MAX_ITER 1",
    "SOLVER.STEPS '(40,)'": "SOLVER.STEPS '()'",
}


def steps(page: str) -> list[tuple[str, list[str]]]:
    """The page's commands, each with the lines that should be seen after it."""
    found: list[tuple[str, list[str]]] = []
    for kind, text in _BLOCK.findall(page):
        if kind == "bash":
            found.append((text, []))
        else:
            found[-1][1].extend(line for line in text.splitlines() if line.strip(" .-"))
    return found


def loosely(line: str) -> re.Pattern[str]:
    """The line with any numbers, any number format, any spacing, and any make-up of a cluster."""
    parts = _VARIES.split(line.removeprefix("... ").strip())
    kinds = [match.lastgroup or "" for match in _VARIES.finditer(line.removeprefix("... ").strip())]
    pattern = re.escape(parts[0])
    for kind, words in zip(kinds, parts[1 + _VARIES.groups :: 1 + _VARIES.groups]):
        pattern += _ANY[kind] + re.escape(words)
    return re.compile(pattern)


def smaller(page: str) -> str:
    for old, new in SMALLER.items():
        assert old in page, f"the page no longer says {old!r}"
        page = page.replace(old, new)
    return page


def user_of(folder: Path) -> dict[str, str]:
    """The environment of somebody who installed this package: ``nds`` and ``python`` are on the path."""
    scripts = folder / "bin"
    scripts.mkdir()
    for name, start in (("nds", "-m nds_plugin.commands.nds"), ("python", "")):
        (scripts / name).write_text(f'#!/bin/sh\nexec {sys.executable} {start} "$@"\n')
        (scripts / name).chmod(0o755)
    ours = ("NDS_DATA", "DETECTRON2_DATASETS")
    inherited = {name: value for name, value in os.environ.items() if name not in ours}
    path = {"PATH": f"{scripts}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    return {**inherited, **path, "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_commands_of_the_tutorial_run_in_their_order_and_show_what_the_page_shows(tmp_path: Path) -> None:
    followed = steps(smaller(PAGE.read_text(encoding="utf-8")))
    assert len(followed) >= 8
    # One shell, as a reader has it: a step sees the folder and variables of those before it.
    script = "set -e\n" + "\n".join(
        f"{command}\necho '=== step {n} done'" for n, (command, _) in enumerate(followed)
    )
    done = subprocess.run(
        ["bash", "-c", f"exec 2>&1\n{script}"],
        cwd=tmp_path,
        env=user_of(tmp_path),
        capture_output=True,
        text=True,
        timeout=1700,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    said = re.split(r"^=== step \d+ done$", done.stdout, flags=re.MULTILINE)
    for (command, lines), text in zip(followed, said):
        unseen = [line for line in lines if not loosely(line).search(text)]
        assert not unseen, f"after\n{command}\nnot seen:\n" + "\n".join(unseen) + f"\nin\n{text[-3000:]}"


def test_numbers_of_the_tutorial_are_compared_loosely_and_words_are_not() -> None:
    line = "... shared network: 720 images, 60 steps in bf16, training accuracy 0.862, loss 0.423"
    assert loosely(line).search(
        "INFO shared network: 48 images,  3 steps in fp32, training accuracy 1, loss 1.4"
    )
    assert not loosely(line).search(
        "shared network: 48 pictures, 3 steps in fp32, training accuracy 1, loss 1.4"
    )
    assert loosely("1  nds_data_a_train 91%, nds_data_b_train 5%   231").search("0 nds_data_c_train 100%  16")
    assert not loosely("cluster 0: accuracy 0.3 +- 0.1").search("cluster 0: accuracy high")
    assert loosely("expert set b232bfea5300 in out").search("expert set 0f1e0f1e0f1e in out")
    assert not loosely("expert set b232bfea5300 in out").search("expert set b232bfea5300 in other")
