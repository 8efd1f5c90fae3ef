"""``nds``: one command with verbs, each imported only when it is used."""

from __future__ import annotations

import ast
import functools
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from nds_plugin import command_line
from nds_plugin.errors import CommandLineError, did_you_mean

VERBS = (
    *(
        "train",
        "train-mm",
        "datasets",
        "partition",
        "experts",
        "score",
        "weigh",
        "draw",
        "gate train",
        "gate score",
    ),
    *("compare", "tables", "export", "serve", "client"),
)


def main() -> None:
    """Entry point of ``nds``."""
    command_line.run(functools.partial(_main, sys.argv[1:]))


def command(verb: str) -> Callable[..., None]:
    """The ``main`` of a verb; its module is imported when it is called."""

    def run_verb(argv: Sequence[str] | None = None) -> None:
        importlib.import_module(f"nds_plugin.commands.{_module(verb)}").main(argv)

    return run_verb


def _main(argv: Sequence[str]) -> None:
    if not argv or argv[0] in ("-h", "--help"):
        print(_help())
        return
    words = 2 if any(verb.startswith(f"{argv[0]} ") for verb in VERBS) else 1
    verb = " ".join(argv[:words])
    if verb not in VERBS:
        known = ", ".join(VERBS)
        raise CommandLineError(
            f"command line: unknown verb {verb!r}.{did_you_mean(verb, VERBS)} Known: {known}; nds --help tells more."
        )
    command(verb)(argv[words:])


def _help() -> str:
    lines = [f"  {verb:<12}{_summary(verb)}" for verb in VERBS]
    return "\n".join(
        [
            *("usage: nds VERB ...", "", "Choose the pretraining images that suit a target dataset.", ""),
            *(*lines, "", "nds VERB --help tells more about each."),
        ]
    )


def _module(verb: str) -> str:
    return verb.replace(" ", "_").replace("-", "_")


def _summary(verb: str) -> str:
    """The first sentence of a verb's opening comment, read without importing what the verb needs."""
    source = Path(__file__).with_name(f"{_module(verb)}.py").read_text(encoding="utf-8")
    comment = ast.get_docstring(ast.parse(source)) or ""
    return comment.partition("\n\n")[0].partition(". ")[0].rstrip(".")


if __name__ == "__main__":
    main()
