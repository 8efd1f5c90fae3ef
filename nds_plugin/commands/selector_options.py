"""Options of selectors on a command line: those of all, of which the named one takes its own."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from nds_plugin.command_line import add_settings, settings_from
from nds_plugin.errors import CommandLineError
from nds_plugin.selection.selectors import SELECTORS, Selector
from nds_plugin.settings import settings_of


def add_selector_settings(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    """Add the settings of some selectors, a group each; what several share is one option."""
    taken: set[str] = set()
    for name in names:
        new = [item.name for item in settings_of(SELECTORS[name]) if item.name not in taken]
        if new:
            owners = [n for n in names if set(new) & {item.name for item in settings_of(SELECTORS[n])}]
            add_settings(parser.add_argument_group(", ".join(owners)), SELECTORS[name], new, optional=True)
            taken |= set(new)


def selector_from(args: argparse.Namespace, names: Sequence[str]) -> Selector:
    """The selector that ``args.selector`` names, with its settings.

    Args:
        args: what :func:`add_selector_settings` added for ``names``, parsed.
        names: see there.

    Raises:
        NDSError: a setting that this selector does not have, or a bad value.
    """
    refuse_foreign(args, SELECTORS[args.selector], names)
    return settings_from(args, SELECTORS[args.selector])


def refuse_foreign(args: argparse.Namespace, selector: type[Selector], names: Sequence[str]) -> None:
    """Refuse an option that a selector does not look at."""
    own = {item.name for item in settings_of(selector)}
    for item in (item for name in names for item in settings_of(SELECTORS[name])):
        if item.name not in own and getattr(args, item.name) is not None:
            raise CommandLineError(
                f"{item.flag} does nothing for the selector {selector.name}: leave it out."
            )
