"""The part of docs/datasets.md that the catalogue holds, so that the two agree.

python -m nds_plugin.datasets.preparing.pages docs/datasets.md
"""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

from nds_plugin.datasets.catalogue import DATASETS
from nds_plugin.datasets.public import PublicDataset
from nds_plugin.errors import NDSError
from nds_plugin.files.artifacts import atomic_write

BEGIN = "<!-- written by: python -m nds_plugin.datasets.preparing.pages docs/datasets.md -->"
END = "<!-- end of what is written by it -->"
_WIDTH = 120


def catalogue_markdown() -> str:
    """A section for each dataset, in the order of the paper's Table 3."""
    return "\n\n".join(map(_section, DATASETS))


def with_catalogue(page: str) -> str:
    """A page with its generated part made anew.

    Raises:
        NDSError: the page lacks one of the two marks.
    """
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(BEGIN) > page.index(END):
        raise NDSError(f"the page must hold the lines {BEGIN!r} and {END!r} once each, in this order.")
    before, after = page.partition(BEGIN)[0], page.partition(END)[2]
    return f"{before}{BEGIN}\n\n{catalogue_markdown()}\n\n{END}{after}"


def _section(dataset: PublicDataset) -> str:
    facts = [
        f"Page: <{dataset.page}>",
        f"Licence: {dataset.licence}",
        f"Download: {dataset.download}",
        f"Build: `nds datasets --build {dataset.key}`",
    ]
    parts = [
        f"### {dataset.title}",
        f"{dataset.role.capitalize()}, {dataset.task}; {dataset.paper_classes} classes.",
        "\n".join(f"- {fact}" for fact in facts),
        f"```text\n{dataset.tree}\n```",
        _counts(dataset),
        *([textwrap.fill(dataset.remarks, _WIDTH, break_on_hyphens=False)] if dataset.remarks else []),
    ]
    return "\n\n".join(parts)


def _counts(dataset: PublicDataset) -> str:
    lines = ["| name | images in the paper | images published | |", "|---|---|---|---|"]
    for split in dataset.splits:
        paper, published = (
            "" if count is None else f"{count:,}" for count in (split.paper_images, split.images)
        )
        lines.append(f"| `{split.name}` | {paper} | {published} | {split.note} |".replace("  ", " "))
    return "\n".join(lines)


def main() -> None:
    """Write the part of the page that is named on the command line."""
    path = Path(sys.argv[1])
    page = with_catalogue(path.read_text(encoding="utf-8"))
    with atomic_write(path, "w") as file:
        file.write(page)


if __name__ == "__main__":
    main()
