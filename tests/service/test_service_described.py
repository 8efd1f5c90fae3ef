"""Sources without experts in the service: published with a description, searched by scores that a client has already."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from service_demo import ROOT, copied, parts_of, running

from nds_plugin.errors import NDSError
from nds_plugin.experts.describing import describe_source
from nds_plugin.experts.description import Description
from nds_plugin.experts.expert_set import ExpertSet
from nds_plugin.experts.settings import ScoringConfig
from nds_plugin.selection.selectors.snds import ScalableNDS, similarities
from nds_plugin.service.published.publishing import publish
from nds_plugin.service.published.store import Store
from nds_plugin.source.folder import index_folder
from nds_plugin.source.index import SourceIndex
from nds_plugin.source.partition import Partition

pytestmark = pytest.mark.slow

Z = [0.9, 0.4, 0.1]


@pytest.fixture(scope="module")
def new(service_store: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two folders of the sample that the store does not hold, described by the experts of the store."""
    folder = tmp_path_factory.mktemp("new")
    parts = parts_of(service_store)
    names = sorted(path.name for path in (service_store.parent / "sample").iterdir() if path.is_dir())[:2]
    indexes = [
        index_folder(service_store.parent / "sample" / name / "images", f"new_{name}") for name in names
    ]
    index = SourceIndex.join([SourceIndex(each.table.slice(0, 6), each.classes) for each in indexes])
    cluster = np.repeat([0, 1], 6)
    partition = Partition(cluster, index.table, index.hash, method="kmeans", seed=0)
    experts = ExpertSet.load(parts["experts"])
    config = ScoringConfig(num_workers=0, precision="fp32")
    found = describe_source(experts, index, partition, config, progress=False)
    index.save(folder / "index.parquet", index.hash)
    partition.save(folder / "partition.parquet", partition.hash)
    found.save(folder / "description.json")
    made = {name: folder / f"{name}.parquet" for name in ("index", "partition")}
    return {**made, "experts": parts["experts"], "description": folder / "description.json"}


def request(expert_set: str, **scores: Any) -> dict[str, Any]:
    sent = {"clusters": [0, 1, 2], "z": Z, "metric": "accuracy", **scores}
    return {"expert_set": expert_set, "scores": sent, "share": 0.5, "seed": 3}


@pytest.mark.parametrize("metric", ["accuracy", "log_likelihood"])
def test_scores_of_known_experts_search_a_source_that_they_describe(
    metric: str, new: dict[str, Path], service_store: Path, tmp_path: Path
) -> None:
    store = copied(service_store, tmp_path / "store")
    z = Z if metric == "accuracy" else [value - 1 for value in Z]
    old = Store(store).current()
    set_id = publish(store, **new)
    described = Description.load(new["description"])
    with running(store) as address:
        shown = httpx.get(f"{address}/api/v1/expert-sets/{set_id}").json()
        assert (shown["num_clusters"], shown["num_experts"], shown["hash"]) == (2, 3, old.expert_hash)
        # The hash of experts that the client scored before the source was there.
        answer = httpx.post(f"{address}/api/v1/preview", json=request(old.expert_hash, metric=metric, z=z))
        assert answer.status_code == 200, answer.text
        expected = similarities(z, described.of_metric(metric), "cosine")
        assert answer.json()["z"] == pytest.approx(expected.tolist())
        sizes = np.array([6, 6])
        assert answer.json()["w"] == pytest.approx(ScalableNDS().cluster_weights(expected, sizes).tolist())
        made = httpx.post(f"{address}/api/v1/searches", json=request(old.expert_hash, metric=metric, z=z))
        assert made.status_code == 201, made.text
        mine = {"Authorization": f"Bearer {made.json()['token']}"}
        link = made.json()["result"]["links"]["manifest"]["json"]
        images = httpx.get(f"{address}{link}", headers=mine).json()["images"]
        assert len(images) == 6
        assert {image["source"].partition("_")[0] for image in images} == {"new"}
        wrong = httpx.post(
            f"{address}/api/v1/preview", json=request(old.expert_hash, z=[0.1, 0.2], clusters=[0, 1])
        )
        assert wrong.status_code == 422
        assert "clusters 0 to 2" in wrong.json()["detail"]
        uniform = httpx.post(
            f"{address}/api/v1/searches", json={**request(old.expert_hash), "selector": "uniform"}
        ).json()
        assert (uniform["request"]["scores"], uniform["result"]["z"]) == (None, None)
        mine = {"Authorization": f"Bearer {uniform['token']}"}
        mosaic = httpx.get(f"{address}{uniform['result']['links']['mosaic']}", headers=mine).json()
        assert [(cluster["cluster"], cluster["z"]) for cluster in mosaic["clusters"]] == [
            (0, None),
            (1, None),
        ]
        odd = httpx.post(f"{address}/api/v1/preview", json=request(old.expert_hash, metric="posterior"))
        assert odd.status_code == 422


def test_the_client_sends_what_it_sends_for_other_sources(
    new: dict[str, Path], service_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CACHE", "CONFIG"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name))
    store = copied(service_store, tmp_path / "store")
    images = next(path for path in (service_store.parent / "sample").rglob("images") if path.is_dir())
    client = [sys.executable, "-m", "nds_plugin.service.client.cli"]
    scores = tmp_path / "scores.json"

    def call(address: str, verb: str, *more: str) -> str:
        done = subprocess.run(
            [*client, verb, "--server", address, *more], capture_output=True, text=True, cwd=ROOT
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    with running(store) as address:
        call(address, "score", "--images", str(images), "--output", str(scores), "--num-workers", "0")
        before = scores.read_bytes()
        publish(store, **new)
        told = call(address, "search", "--scores", str(scores), "--share", "0.5", "--yes")
    assert scores.read_bytes() == before
    assert "log_likelihood, 3 numbers, one per expert" in told


def test_what_does_not_belong_together_is_not_published(
    new: dict[str, Path], service_store: Path, tmp_path: Path
) -> None:
    def with_changes(**changes: Any) -> dict[str, Path]:
        path = tmp_path / "description.json"
        path.write_text(json.dumps({**json.loads(new["description"].read_text()), **changes}))
        return {**new, "description": path}

    with pytest.raises(NDSError, match="other experts than those that describe the source"):
        publish(tmp_path / "store", **with_changes(expert_set="f" * 64))
    with pytest.raises(NDSError, match="the description is of another partition"):
        publish(tmp_path / "store", **with_changes(partition="f" * 64))
    without = {name: path for name, path in new.items() if name != "description"}
    with pytest.raises(NDSError, match="experts of another partition"):
        publish(tmp_path / "store", **without)
    assert not (tmp_path / "store" / "current.json").exists()
