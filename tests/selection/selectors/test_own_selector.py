"""A selector of one's own: the example in the docs, and what the registry refuses."""

from __future__ import annotations

import re
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from planted import evidence

from nds_plugin.errors import NDSError
from nds_plugin.selection.config import SelectionConfig
from nds_plugin.selection.select import select
from nds_plugin.selection.selectors import SELECTORS, ClusterSelector, ImageSelector
from nds_plugin.selection.selectors.base import Evidence, weigh_images
from nds_plugin.settings import settings_of
from nds_plugin.source.partition import Partition

ROOT = Path(__file__).parents[3]


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> type[ImageSelector]:
    """The class of docs/selectors.md, known for one test."""
    monkeypatch.setattr(SELECTORS, "_known", dict(SELECTORS._known))
    page = (ROOT / "docs/selectors.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.+?)```", page, re.DOTALL)
    assert code
    assert code[1].count("\n") <= 32
    module = types.ModuleType("example")
    monkeypatch.setitem(sys.modules, "example", module)  # dataclasses look a class's module up
    exec(compile(code[1], "docs/selectors.md", "exec"), module.__dict__)
    return SELECTORS["nearest_centre"]  # type: ignore[return-value]


def test_the_example_draws_the_cluster_that_the_clients_images_lie_in(example: type[ImageSelector]) -> None:
    given = evidence()
    partition = Partition.by_source(given.index)
    found = Evidence(given.index, given.source, given.target, partition)
    weights = weigh_images(example(), found)
    selection = select(given.index, partition, SelectionConfig(example, count=20), image_weights=weights)
    drawn = np.bincount(selection.column("cluster").to_numpy(), minlength=partition.num_clusters)
    assert given.index.sources[int(drawn.argmax())] == "near"
    assert selection.info["selector"] == "nearest_centre"
    assert selection.info["sees_target"]


def test_the_example_has_a_key_in_the_config(example: type[ImageSelector]) -> None:
    from detectron2.config import get_cfg

    from nds_plugin.d2 import add_nds_config
    from nds_plugin.pipeline.config_nodes import read_settings

    cfg = get_cfg()
    add_nds_config(cfg)
    cfg.merge_from_list(["NDS.SELECTOR", "nearest_centre", "NDS.NEAREST_CENTRE.ADDED", "2.0"])
    assert read_settings(example, cfg.NDS, "NEAREST_CENTRE") == example(added=2.0)


def test_every_selector_says_all_that_is_asked_of_it() -> None:
    for name, selector in SELECTORS.items():
        assert selector.name == selector.what == name
        assert selector.label
        assert re.fullmatch("#[0-9a-f]{6}", selector.colour)
        assert issubclass(selector, (ClusterSelector, ImageSelector))
        assert all(item.help for item in settings_of(selector))


def test_a_name_that_is_taken_is_refused() -> None:
    with pytest.raises(NDSError, match="the name 'nds' of selector .*Other is that of NDS"):

        @SELECTORS.register
        @dataclass(frozen=True)
        class Other(ImageSelector):
            name = "nds"
            label = "Other"


def test_a_selector_without_a_name_is_refused() -> None:
    with pytest.raises(NDSError, match="give the class a name and a label"):

        @SELECTORS.register
        @dataclass(frozen=True)
        class Nameless(ImageSelector):
            pass
