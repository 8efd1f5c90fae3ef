"""Experts for the authors' client: what it loads is what we trained, and its scores select the same."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from as_user import User, tool
from tiny_experts import TINY, trained, two_domains, write_domain
from torchvision.models import resnet18

from nds_plugin.errors import NDSError
from nds_plugin.experts.expert_set import ExpertSet
from nds_plugin.experts.scores import Scores
from nds_plugin.experts.scoring import score_experts
from nds_plugin.experts.settings import ScoringConfig
from nds_plugin.experts.train_experts import train_experts
from nds_plugin.files.temporary import new_file
from nds_plugin.images.crop_geometry import read_center_crop
from nds_plugin.images.networks import MEAN, STD
from nds_plugin.selection.config import SelectionConfig
from nds_plugin.selection.select import select
from nds_plugin.selection.selectors.nds import NDS
from nds_plugin.service.client.export import export_fastadapt
from nds_plugin.service.fastadapt.scores import convert
from nds_plugin.source.image_folders import list_images

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> ExpertSet:
    return trained(tmp_path_factory.mktemp("export"))


def _foreign_z(folder: Path, images: Path, size: int) -> dict[str, float]:
    """What a program that knows only the other client's conventions makes of a folder of experts.

    Written from the description alone: load every file's "network" into a ResNet-18 of 4 outputs, rotate
    each crop counter-clockwise, count right answers in percent, round to 4 decimals.
    """
    crops = np.stack([read_center_crop(path, size) for path in list_images(images)])
    turned = np.stack([np.rot90(crops, k, axes=(1, 2)) for k in range(4)], axis=1)
    inputs = (torch.tensor(turned).float() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    z = {}
    for path in folder.iterdir():
        network = resnet18(num_classes=4)
        network.load_state_dict(torch.load(path, weights_only=True)["network"], strict=True)
        with torch.inference_mode():
            answers = network.eval()(inputs.flatten(0, 1).permute(0, 3, 1, 2)).argmax(1)
        right = (answers.view(-1, 4) == torch.arange(4)).float().mean().item()
        z[path.name] = round(100 * right, 4)
    return z


def test_exported_experts_answer_as_the_experts_do(experts: ExpertSet, tmp_path: Path) -> None:
    files = export_fastadapt(experts, tmp_path / "fastadapt", progress=False)
    assert sorted(path.name for path in (tmp_path / "fastadapt").iterdir()) == [path.name for path in files]
    inputs = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for cluster, path in zip(experts.clusters, files):
        network = resnet18(num_classes=4)
        network.load_state_dict(torch.load(path, weights_only=True)["network"], strict=True)
        with torch.inference_mode():
            assert torch.equal(network.eval()(inputs), experts.load_model(cluster)(inputs))


def test_exported_files_are_in_the_format_that_torch_of_2019_reads(
    experts: ExpertSet, tmp_path: Path
) -> None:
    for path in export_fastadapt(experts, tmp_path / "fastadapt", progress=False):
        assert not path.read_bytes().startswith(b"PK"), "a zip file, which torch reads since 1.6"


def test_the_other_clients_scores_give_the_same_selection_as_ours(tmp_path: Path) -> None:
    experts = trained(tmp_path)
    index, partition = two_domains(tmp_path)
    write_domain(tmp_path / "client", 12, bright_top=True, seed=5)
    ours = score_experts(
        experts,
        tmp_path / "client",
        ScoringConfig("accuracy", precision="fp32", num_workers=0),
        progress=False,
    )
    export_fastadapt(experts, tmp_path / "fastadapt", progress=False)
    z = _foreign_z(tmp_path / "fastadapt", tmp_path / "client", experts.crop_size)
    found = convert(pickle.dumps(z, pickle.HIGHEST_PROTOCOL), experts.hash, experts.clusters)
    assert found["z"] == pytest.approx(ours.z, abs=1e-6)
    theirs = Scores(found["clusters"], found["z"], [0.0, 0.0], "accuracy", 0, experts.hash, experts.task)
    for normalisation in ("minmax", "none"):
        config = SelectionConfig(NDS(normalisation=normalisation), count=15)
        a, b = select(index, partition, config, ours), select(index, partition, config, theirs)
        assert a.table.select(["source", "image_id"]) == b.table.select(["source", "image_id"])


def test_a_folder_that_holds_anything_else_is_refused(experts: ExpertSet, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(NDSError, match=r"holds other files, first notes\.txt: give a new folder"):
        export_fastadapt(experts, tmp_path, progress=False)


def test_an_export_that_was_killed_is_started_again(experts: ExpertSet, tmp_path: Path) -> None:
    with new_file(tmp_path / "nds_expert_0000.pth") as (descriptor, name):
        os.close(descriptor)
    Path(name).write_bytes(b"half")  # as kill -9 leaves it: nobody holds its lock
    files = export_fastadapt(experts, tmp_path, progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in files)


def test_a_file_that_a_living_export_writes_is_not_taken_from_it(experts: ExpertSet, tmp_path: Path) -> None:
    with new_file(tmp_path / "nds_expert_0000.pth") as (descriptor, name):
        os.close(descriptor)
        with pytest.raises(NDSError):
            export_fastadapt(experts, tmp_path, progress=False)
        assert Path(name).exists()


def test_experts_of_another_task_are_refused(tmp_path: Path) -> None:
    index, partition = two_domains(tmp_path)
    experts = train_experts(
        index, partition, replace(TINY, task="supervised"), tmp_path / "experts", progress=False
    )
    with pytest.raises(NDSError, match="task 'supervised' with 2 outputs"):
        export_fastadapt(experts, tmp_path / "fastadapt", progress=False)


def test_the_tool_writes_where_publishing_looks(
    tmp_path: Path, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    experts = trained(tmp_path)
    monkeypatch.setattr(sys, "argv", ["export_experts.py", "--experts", str(experts.directory)])
    tool("export_experts").main()
    assert len(list((experts.directory / "fastadapt").glob("*.pth"))) == 2
    assert "experts file not found" in user.fails("export_experts", "--experts", tmp_path / "none")


def test_an_export_that_was_killed_in_mid_write_is_started_again(tmp_path: Path, user: User) -> None:
    experts = trained(tmp_path)
    code = (
        "import sys, torch\n"
        "from nds_plugin.experts.expert_set import ExpertSet\n"
        "from nds_plugin.service.client.export import export_fastadapt\n"
        "def half(data, file, **_):\n"
        "    file.write(bytes(1000)); file.flush(); print('half', flush=True); sys.stdin.read()\n"
        "torch.save = half\n"
        f"export_fastadapt(ExpertSet.load({str(experts.directory)!r}), {str(tmp_path / 'out')!r}, progress=False)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    ) as export:
        assert export.stdout
        assert export.stdout.readline() == b"half\n"
        argv = ("export_experts", "--experts", experts.directory, "--output", tmp_path / "out")
        assert "which another process is writing" in user.fails(*argv)
        export.kill()
    assert len(os.listdir(tmp_path / "out")) == 1
    assert "2 experts of set" in user.runs(*argv)
    assert sorted(os.path.splitext(name)[1] for name in os.listdir(tmp_path / "out")) == [".pth", ".pth"]
