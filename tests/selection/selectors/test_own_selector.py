"""A selector of one's own: the example in the docs, and what the registry refuses."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from planted import evidence
from tiny_experts import two_domains, write_domain

from nds_plugin.errors import NDSError
from nds_plugin.experts.expert_set import write_network
from nds_plugin.images.networks import build_network
from nds_plugin.selection.config import SelectionConfig
from nds_plugin.selection.select import select
from nds_plugin.selection.selectors import SELECTORS, ClusterSelector, ImageSelector
from nds_plugin.selection.selectors.base import Evidence, weigh_images
from nds_plugin.settings import settings_of
from nds_plugin.source.partition import Partition

ROOT = Path(__file__).parents[3]


def code() -> str:
    """The module of docs/selectors.md."""
    page = (ROOT / "docs/selectors.md").read_text(encoding="utf-8")
    found = re.search(r"```python\n(.+?)```", page, re.DOTALL)
    assert found
    return found[1]


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> type[ImageSelector]:
    """The class of docs/selectors.md, known for one test."""
    monkeypatch.setattr(SELECTORS, "_known", dict(SELECTORS._known))
    assert code().count("\n") <= 32
    module = types.ModuleType("example")
    monkeypatch.setitem(sys.modules, "example", module)  # dataclasses look a class's module up
    exec(compile(code(), "docs/selectors.md", "exec"), module.__dict__)
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


@pytest.mark.slow
def test_the_example_works_from_the_shell_as_an_entry_point_of_an_installed_package(tmp_path: Path) -> None:
    installed = tmp_path / "installed"
    (installed / "my_package").mkdir(parents=True)
    (installed / "my_package/nearest_centre.py").write_text(code())
    facts = installed / "my_package-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: my_package\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(
        "[nds_plugin.selectors]\nnearest_centre = my_package.nearest_centre\n"
    )
    index, partition = two_domains(tmp_path, 12)
    index.save(tmp_path / "index.parquet", "k")
    partition.save(tmp_path / "partition.parquet", "k")
    write_domain(tmp_path / "photos", 4, bright_top=False, seed=5)
    network = tmp_path / "shared.safetensors"
    write_network(network, build_network(4).state_dict(), {"key": "k", "outputs": 4})

    def weigh(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "nds_plugin.commands.weigh", "--selector", "nearest_centre"]
        command += [
            "--index",
            "index.parquet",
            "--images",
            "photos",
            "--crop-size",
            "32",
            "--num-workers",
            "0",
        ]
        paths = os.pathsep.join([str(installed), str(ROOT)])
        return subprocess.run(
            [*command, *arguments], cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths}
        )  # fmt: skip

    known = ["--added", "2.0", "--partition", "partition.parquet", "--network", "shared.safetensors"]
    done = weigh(*known, "--output", "weights.parquet")
    assert done.returncode == 0, done.stderr
    assert "24 of 24 images can be drawn" in done.stdout
    refused = weigh("--network", "nowhere.pth", "--output", "weights.parquet")
    assert refused.returncode == 2
    assert "needs clusters: give the source's --partition" in refused.stderr, (
        "before the network is looked for"
    )


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
