"""A hook of mkdocs: blocks of LaTeX, which GitHub shows as formulas, become MathML, so that pages need no script for them."""

from __future__ import annotations

import re
from typing import Any

from latex2mathml.converter import convert

_BLOCK = re.compile(r"^```math\n(.*?)\n```$", re.MULTILINE | re.DOTALL)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for each page before it is rendered."""
    return _BLOCK.sub(lambda block: convert(block[1], display="block"), markdown)
