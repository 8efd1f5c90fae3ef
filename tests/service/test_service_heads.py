"""Head experts in the service: published, listed, downloaded as one backbone with heads, and scored."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from head_sets import head_parts
from service_demo import ROOT, copied, running

from nds_plugin.errors import NDSError
from nds_plugin.experts.expert_set import ExpertSet, write_network
from nds_plugin.experts.manifest import BACKBONE, HEADS, MANIFEST, set_hash
from nds_plugin.experts.scores import Scores
from nds_plugin.experts.scoring import score_experts
from nds_plugin.experts.settings import ScoringConfig
from nds_plugin.files.artifacts import file_hash
from nds_plugin.service import set_limits
from nds_plugin.service.client.cache import current_set, fetch_experts
from nds_plugin.service.client.http import Service
from nds_plugin.service.published.publishing import publish

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def parts(service_store: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return head_parts(service_store, tmp_path_factory.mktemp("heads") / "experts")


@pytest.fixture(scope="module")
def server(
    service_store: Path, parts: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A store that went from networks to heads."""
    store = copied(service_store, tmp_path_factory.mktemp("store") / "copy")
    publish(store, **parts)
    with running(store) as address:
        yield address


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "cache"


def test_both_kinds_are_listed_with_what_they_weigh(server: str, parts: dict[str, Path]) -> None:
    heads, networks = httpx.get(f"{server}/api/v1/expert-sets").json()["expert_sets"]
    assert (heads["kind"], heads["current"], heads["num_clusters"]) == ("head", True, 3)
    assert (networks["kind"], networks["current"]) == ("network", False)
    assert heads["bytes"] == sum(path.stat().st_size for path in parts["experts"].iterdir())
    assert heads["bytes"] < networks["bytes"] / 3  # four networks there, one here


def test_a_client_fetches_one_backbone_with_heads_and_scores_them(
    server: str, parts: dict[str, Path], service_store: Path, cache: Path, tmp_path: Path
) -> None:
    with Service(server) as service:
        folder = fetch_experts(service, current_set(service), progress=False)
    assert sorted(path.name for path in folder.iterdir()) == [BACKBONE, HEADS, MANIFEST]
    images = service_store.parent / "sample/city/images"
    command = [sys.executable, "-m", "nds_plugin.service.client.cli", "score", "--server", server]
    command += ["--images", str(images), "--output", str(tmp_path / "scores.json"), "--num-workers", "0"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    expected = score_experts(
        ExpertSet.load(parts["experts"]), images, ScoringConfig(num_workers=0), progress=False
    )
    assert Scores.load(tmp_path / "scores.json").z == expected.z


def test_the_paper_authors_client_is_refused_heads_in_one_line(
    server: str, cache: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "nds_plugin.service.client.cli", "experts", "--server", server]
    done = subprocess.run(
        [*command, "--fastadapt", str(tmp_path / "out")], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 2
    assert (
        "the authors' client runs a ResNet-18 per expert and cannot run heads" in done.stderr.splitlines()[-1]
    )


def forged(parts: dict[str, Path], folder: Path, features: int) -> dict[str, Path]:
    """The set with heads of other features, and hashes that agree with them."""
    import torch

    shutil.copytree(parts["experts"], folder)
    shapes = {"weight": (3, 4, features), "bias": (3, 4), "shared.weight": (4, features), "shared.bias": (4,)}
    write_network(folder / HEADS, {name: torch.zeros(shape) for name, shape in shapes.items()}, {"key": "k"})
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["heads"]["sha256"] = file_hash(folder / HEADS)
    manifest["hash"] = set_hash(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return {**parts, "experts": folder}


def test_heads_that_are_not_those_of_the_manifest_are_not_published(
    parts: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(
        NDSError, match=r"tensor 'weight' should be F32 \[3, 4, 512\] in 3 heads of 4 outputs"
    ):
        publish(tmp_path / "store", **forged(parts, tmp_path / "forged", 100))


def test_a_set_that_clients_would_refuse_is_not_published(
    parts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(set_limits, "MAX_EXPERT", 2_000_000)
    with pytest.raises(
        NDSError, match=r"backbone.safetensors is of \d+.\d MB, clients take .* at most 2.0 MB"
    ):
        publish(tmp_path / "store", **parts)
    monkeypatch.setattr(set_limits, "CROP_SIZES", range(100, 1025))
    with pytest.raises(NDSError, match="cannot be served: expected crops of 100 to 1024 pixels, got 32"):
        publish(tmp_path / "store", **parts)


def test_a_changed_backbone_is_not_published(parts: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "experts"
    shutil.copytree(parts["experts"], folder)
    content = bytearray((folder / BACKBONE).read_bytes())
    content[-1] ^= 1
    (folder / BACKBONE).write_bytes(content)
    with pytest.raises(NDSError, match="backbone.safetensors is not the file that the manifest names"):
        publish(tmp_path / "store", **{**parts, "experts": folder})
