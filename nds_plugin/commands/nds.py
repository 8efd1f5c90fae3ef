"""``nds``: one command with verbs, each imported only when it is used."""

from __future__ import annotations

import ast
import functools
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from nds_plugin import __version__, command_line
from nds_plugin.errors import CommandLineError, did_you_mean

VERBS = (
    *(
        "train",
        "train-mm",
        "train-ssl",
        "datasets",
        "partition",
        "experts",
        "score",
        "describe",
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
    first = argv[0] if argv else "--help"
    if first in ("-h", "--help"):
        print(_help())
        return
    if first == "--version":
        print(f"nds_plugin {__version__}")
        return
    below = [verb for verb in VERBS if verb.startswith(f"{first} ")]
    if below and (len(argv) == 1 or argv[1] in ("-h", "--help")):
        print(_help(f"{first} "))
        return
    words = 2 if below else 1
    verb = " ".join(argv[:words])
    if verb not in VERBS:
        known = ", ".join(below or VERBS)
        raise CommandLineError(
            f"command line: unknown verb {verb!r}.{did_you_mean(verb, VERBS)} Known: {known}; nds --help tells more."
        )
    command(verb)(argv[words:])


def _help(group: str = "") -> str:
    """The verbs and what each does; ``group`` is how those begin that are shown, such as "gate "."""
    lines = [f"  {verb:<12}{_summary(verb)}" for verb in VERBS if verb.startswith(group)]
    version = [] if group else ["nds --version prints the version."]
    return "\n".join(
        [
            *(
                f"usage: nds {group}VERB ...",
                "",
                "Choose the pretraining images that suit a target dataset.",
                "",
            ),
            *(*lines, "", f"nds {group}VERB --help tells more about each.", *version),
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
