"""Files that a pretraining may start from, and those that only look so."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from nds_plugin.errors import NDSError
from nds_plugin.files.checkpoints import write_checkpoint
from nds_plugin.ssl.main_job import export_for_detectron2
from nds_plugin.ssl.network import build_network, for_detectron2, load_trunk, read_trunk, trunk
from nds_plugin.ssl.settings import NetworkConfig


def trained(config: NetworkConfig) -> dict[str, torch.Tensor]:
    """The weights of a network whose batch norms have seen something."""
    network = build_network(config, 2, 1)
    network(torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    return trunk(network)


@pytest.mark.parametrize("stem", ["small", "half", "imagenet"])
def test_the_file_for_detectron2_is_read_as_the_network_that_it_was_made_from(
    stem: str, tmp_path: Path
) -> None:
    config = NetworkConfig(width=4, stem=stem)
    weights = trained(config)
    write_checkpoint(tmp_path / "model.pth", {"model": weights})
    export_for_detectron2(tmp_path / "model.pth", tmp_path / "detectron2.pth")
    network = build_network(config, 2, 5)
    load_trunk(network, read_trunk(str(tmp_path / "detectron2.pth"), "MODEL.WEIGHTS", config), "the file")
    found = trunk(network)
    for name, value in weights.items():
        assert name.endswith("num_batches_tracked") or torch.equal(found[name], value), name


@pytest.mark.parametrize("told", [True, False], ids=["of ours", "of another tool"])
def test_weights_of_another_stem_of_the_same_shape_are_refused_where_the_file_tells_it(
    told: bool, tmp_path: Path
) -> None:
    was, here = (NetworkConfig(width=4, stem=stem) for stem in ("half", "small"))
    path = tmp_path / "model.pth"
    write_checkpoint(path, {"model": trained(was), "meta": {"network": asdict(was)} if told else "of mine"})
    assert read_trunk(str(path), "MODEL.WEIGHTS", was)
    if not told:
        assert read_trunk(str(path), "MODEL.WEIGHTS", here)
        return
    with pytest.raises(
        NDSError, match=r"model\.pth does not fit: it was trained with MODEL\.STEM half, here it is small"
    ):
        read_trunk(str(path), "MODEL.WEIGHTS", here)


def test_a_stem_of_7x7_is_not_cut_to_one_of_3x3(tmp_path: Path) -> None:
    weights = trained(NetworkConfig(width=4, stem="imagenet"))
    with pytest.raises(
        NDSError, match=r"conv1.weight has shape \(4, 3, 7, 7\), in the network \(4, 3, 3, 3\)"
    ):
        load_trunk(build_network(NetworkConfig(width=4, stem="half"), 2, 5), weights, "the file")


def test_batch_norms_without_statistics_are_refused(tmp_path: Path) -> None:
    """As in MSRA's R-50.pkl, under the names of Detectron2."""
    state = for_detectron2(trained(NetworkConfig(depth=50, width=4, stem="imagenet")))
    bare = {name: value for name, value in state.items() if ".running_" not in name}
    write_checkpoint(tmp_path / "R-50.pth", {"model": bare})
    with pytest.raises(
        NDSError, match=r"R-50.pth: the statistics of its batch norms are folded away"
    ) as caught:
        read_trunk(str(tmp_path / "R-50.pth"), "MODEL.WEIGHTS", NetworkConfig(depth=50))
    assert "\n" not in str(caught.value)
