"""Going on from a checkpoint, with the same config and, by --resume, with another; and the end of a training."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nds_plugin.engine.processes import OneProcess
from nds_plugin.errors import NDSError
from nds_plugin.files.checkpoints import read_checkpoint, write_checkpoint
from nds_plugin.job.training_folder import FINAL, FINISHED, LAST, STARTED
from nds_plugin.ssl import checkpoints
from nds_plugin.ssl.network import trunk
from nds_plugin.ssl.pretrain import prepared
from nds_plugin.ssl.settings import NetworkConfig, PretrainConfig
from nds_plugin.ssl.train import Run, Training, train_stage

CONFIG = PretrainConfig(
    size=16, batch_size=8, queue=16, dim=4, bn_groups=2, iterations=6, weight_decay=1e-4, precision="fp32"
)
NETWORK = NetworkConfig(width=4, stem="half")


def training(folder: Path, network: NetworkConfig = NETWORK, **changes: Any) -> Training:
    run = Run(3, OneProcess(), torch.device("cpu"))
    return prepared(folder, network, replace(CONFIG, **changes), run)[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a training of six iterations that ended after its third."""
    found = tmp_path_factory.mktemp("run") / "pretrain"
    training(found).save(3)
    return found


def test_a_training_goes_on_from_the_newest_of_two_checkpoints_that_is_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    begun = training(tmp_path)
    for iteration in (1, 2, 3):
        begun.save(iteration)
    older, newest = sorted(tmp_path.glob("model_*.pth"))
    assert (older.name, newest.name) == ("model_0000002.pth", "model_0000003.pth")
    assert training(tmp_path).start(True) == 3
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1  # torch reads it all the same
    newest.write_bytes(content)
    assert training(tmp_path).start(True) == 2
    assert f"Resuming at {older}, because the newest is not usable: {newest}" in caplog.text
    older.write_bytes(b"")
    with pytest.raises(NDSError, match="no whole checkpoint to resume at") as caught:
        training(tmp_path).start(True)
    assert "\n" not in str(caught.value)


def test_a_damaged_checkpoint_does_not_take_the_place_of_a_whole_one(tmp_path: Path) -> None:
    """Even if the next is not written where it was, since the period is another one now."""
    names = [f"model_000{iteration}.pth" for iteration in (3000, 4000, 4500)]
    for iteration in (3000, 4000):
        checkpoints.write(tmp_path, iteration, {"iteration": iteration})
    whole = (tmp_path / names[0]).read_bytes()
    for name in names[:2]:
        (tmp_path / name).write_bytes(b"cut short")
    with pytest.raises(NDSError, match="no whole checkpoint to resume at"):
        checkpoints.newest_whole(tmp_path, OneProcess())
    assert {path.name for path in tmp_path.iterdir()} == {LAST, *names[:2]}
    (tmp_path / names[0]).write_bytes(whole)
    found = checkpoints.newest_whole(tmp_path, OneProcess())
    assert found == tmp_path / names[0]
    assert (tmp_path / names[1]).is_file()  # a config that does not fit is refused first, and changes nothing
    checkpoints.remove_newer(tmp_path, found)
    assert (tmp_path / LAST).read_text() == names[0]
    checkpoints.write(tmp_path, 4500, {"iteration": 4500})
    assert {path.name for path in tmp_path.iterdir()} == {LAST, names[0], names[2]}
    assert checkpoints.which_is_kept(tmp_path) == f" {tmp_path / names[2]} is kept."


def test_weight_decay_and_momentum_are_those_of_the_config_and_not_of_the_checkpoint(folder: Path) -> None:
    again = training(folder, weight_decay=0.5, momentum=0.1)
    assert again.start(True) == 3
    assert [(g["weight_decay"], g["momentum"]) for g in again.optimizer.param_groups] == [(0.5, 0.1)]


@pytest.mark.parametrize(
    ("network", "changes", "named"),
    [
        (NetworkConfig(width=8, stem="half"), {}, "query.conv1.weight"),
        (NETWORK, {"queue": 24}, "queue"),
        (NETWORK, {"method": "rotnet"}, "network.conv1.weight"),
        (NETWORK, {"version": 2}, "query.fc.0.weight"),
        (NetworkConfig(width=4, stem="small"), {}, "MODEL.STEM"),
        (NETWORK, {"batch_size": 16}, "PRETRAIN.BATCH_SIZE"),
    ],
    ids=["width", "queue", "method", "version", "stem", "batch size"],
)
def test_the_checkpoint_of_another_network_or_method_is_refused(
    folder: Path, network: NetworkConfig, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(NDSError, match="does not fit this config") as caught:
        training(folder, network, **changes).start(True)
    assert "\n" not in str(caught.value)
    assert "model_0000003.pth" in str(caught.value)
    assert f"({named} is" in str(caught.value)


def test_a_checkpoint_of_before_that_does_not_tell_its_stem_is_taken(folder: Path, tmp_path: Path) -> None:
    state = read_checkpoint(folder / "model_0000003.pth")
    del state["told"]
    write_checkpoint(tmp_path / "model_0000003.pth", state)
    assert training(tmp_path).start(True) == 3


def test_the_checkpoint_of_a_longer_training_is_refused(folder: Path) -> None:
    with pytest.raises(NDSError, match=r"is after iteration 3, but PRETRAIN.ITERATIONS is 2"):
        training(folder, iterations=2).start(True)
    assert training(folder, iterations=3).start(True) == 3


def test_a_training_that_needs_a_scaler_goes_on_from_one_that_had_none_and_the_other_way_round(
    folder: Path, tmp_path: Path
) -> None:
    scaled = training(folder)
    scaled.scaler = torch.amp.GradScaler("cpu", init_scale=8.0, enabled=True)
    assert scaled.start(True) == 3
    assert scaled.scaler.get_scale() == 8.0
    scaled.folder = tmp_path
    scaled.save(4)
    assert training(tmp_path).start(True) == 4
    again = training(tmp_path)
    again.scaler = torch.amp.GradScaler("cpu", enabled=True)
    again.start(True)
    assert again.scaler.get_scale() == 8.0


def test_checkpoints_go_where_the_training_is_finished(tmp_path: Path) -> None:
    def work(go_on: bool) -> None:
        found = training(tmp_path)
        found.start(go_on)
        found.save(3)
        if go_on:
            found.finish(trunk(found.model.trunk), {})
        else:
            raise KeyboardInterrupt

    run = Run(3, OneProcess(), torch.device("cpu"))
    with pytest.raises(KeyboardInterrupt):
        train_stage(tmp_path, "k" * 64, work, CONFIG, run)
    assert {path.name for path in tmp_path.iterdir()} == {STARTED, LAST, "model_0000003.pth"}
    assert train_stage(tmp_path, "k" * 64, work, CONFIG, run) == tmp_path / FINAL
    assert {path.name for path in tmp_path.iterdir()} == {STARTED, FINISHED, FINAL}


def test_weights_that_the_last_step_broke_are_not_kept(tmp_path: Path) -> None:
    found = training(tmp_path)
    weights = trunk(found.model.trunk)
    found.finish(weights, {"method": "moco"})
    assert read_checkpoint(tmp_path / FINAL)["meta"] == {
        "network": asdict(NETWORK),
        "method": "moco",
        "precision": "fp32",
    }
    (tmp_path / FINAL).unlink()
    weights["layer1.0.conv1.weight"].view(-1)[0] = torch.inf
    with pytest.raises(NDSError, match=r"layer1\.0\.conv1\.weight holds NaN or an infinity after the last"):
        found.finish(weights, {})
    assert not (tmp_path / FINAL).exists()
