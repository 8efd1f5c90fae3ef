"""The source's side on a Ray cluster of two nodes: the same bytes as in one process, whatever is killed."""

from __future__ import annotations

import functools
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from killing import ROOT, started_until
from planted_images import CROP, coloured, extraction, network
from ray_nodes import KillingExecutor, started, with_node

from nds_plugin.engine.config import EngineConfig
from nds_plugin.engine.executor import Executor, LocalExecutor, Pass, Shard
from nds_plugin.engine.ray_executor import RayExecutor
from nds_plugin.errors import NDSError
from nds_plugin.experts.describing import describe_source
from nds_plugin.experts.expert_set import ExpertSet
from nds_plugin.experts.scoring import score_experts
from nds_plugin.experts.scoring_shards import scoring_shards
from nds_plugin.experts.settings import ExpertConfig, HeadConfig, ScoringConfig
from nds_plugin.experts.train_experts import train_experts
from nds_plugin.experts.train_heads import train_heads
from nds_plugin.files.artifacts import file_hash
from nds_plugin.source.index import SourceIndex
from nds_plugin.source.partition import Partition
from nds_plugin.source.partitioning import PartitionConfig
from nds_plugin.source.two_passes import TwoPasses

pytest.importorskip("ray", reason="the extra ray is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::ResourceWarning"
    ),
]

in_test_ray = pytest.mark.skipif(
    not os.environ.get("NDS_RAY_TESTS"), reason="kills nodes of Ray for minutes: make test-ray"
)

SHARD = 32  # more shards than nodes in each pass, so that a new node gets one
CONFIG = PartitionConfig(num_clusters=3, sample_per_cluster=40, sample_least=1)
NETWORKS = ExpertConfig(crop_size=CROP, steps=2, shared_steps=1, batch_size=2, precision="fp32")
SCORING = ScoringConfig(precision="fp32", num_workers=0)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    import ray

    os.environ["OMP_NUM_THREADS"] = "1"
    found = started()
    with_node(found)
    yield found
    ray.shutdown()
    found.shutdown()


@dataclass
class Made:
    """What the local engine has made of a source."""

    folder: Path
    index: SourceIndex
    partition: Partition
    heads: ExpertSet


def partitioned(index: SourceIndex, folder: Path, executor: Executor) -> Partition:
    passes = TwoPasses(CONFIG, extraction(), executor, folder / "partition", folder / "features", SHARD)
    partition = passes.run(index, "key")
    partition.save(folder / "partition.parquet", "key")
    return partition


def heads(made: Made, folder: Path, executor: Executor) -> None:
    config = HeadConfig(crop_size=CROP, c=0.01)
    train_heads(
        made.index, made.partition, network(), config, folder / "heads", executor=executor, shard_size=SHARD
    )


def networks(made: Made, folder: Path, executor: Executor) -> None:
    train_experts(made.index, made.partition, NETWORKS, folder / "networks", executor=executor)


def scores(made: Made, folder: Path, executor: Executor) -> None:
    with scoring_shards(executor, folder / "scores.json", SHARD) as shards:
        score_experts(made.heads, made.index, SCORING, shards=shards).save(folder / "scores.json")


def description(made: Made, folder: Path, executor: Executor) -> None:
    with scoring_shards(executor, folder / "description.json", SHARD) as shards:
        found = describe_source(made.heads, made.index, made.partition, SCORING, shards=shards)
    found.save(folder / "description.json")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder, executor = tmp_path_factory.mktemp("local"), LocalExecutor(progress=False)
    index = coloured(folder / "images", 200, broken=(5, 130))
    found = Made(folder, index, partitioned(index, folder, executor), None)  # type: ignore[arg-type]
    heads(found, folder, executor)
    found.heads = ExpertSet.load(folder / "heads")
    for step in (networks, scores, description):
        step(found, folder, executor)
    return found


def hashes(folder: Path, *patterns: str) -> dict[str, str]:
    """SHA-256 of files by name; the seconds beside the scores are no part of them."""
    files = [path for pattern in patterns for path in folder.glob(pattern) if path.is_file()]
    return {
        str(path.relative_to(folder)): file_hash(path)
        for path in files
        if not path.name.endswith("cost.json")
    }


@pytest.mark.parametrize(
    ("step", "what", "patterns"),
    [
        pytest.param("partition", "features", ("partition*", "partition/*"), marks=in_test_ray),
        ("partition", "assign", ("partition*", "partition/*")),
        ("heads", "heads", ("heads/*",)),
        pytest.param("networks", "experts", ("networks/*",), marks=in_test_ray),
        ("scores", "scoring", ("scores.json",)),
        pytest.param("description", "scoring", ("description.json",), marks=in_test_ray),
    ],
)
def test_a_node_is_killed_and_the_bytes_are_those_of_one_process(
    cluster: Any,
    made: Made,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    step: str,
    what: str,
    patterns: Any,
) -> None:
    executor = KillingExecutor(cluster, what, tmp_path / "here")
    if step == "partition":
        partitioned(made.index, tmp_path, executor)
    else:
        globals()[step](made, tmp_path, executor)
    found = hashes(tmp_path, *patterns)
    assert found
    assert found == hashes(made.folder, *patterns)
    assert (tmp_path / "here").exists()
    assert "failed (attempt 1 of 3), trying again: " in caplog.text
    assert "Died" in caplog.text or "Crashed" in caplog.text


DRIVER = """
import sys
sys.path[:0] = ["tests/support", "tests/engine"]
import pickle, test_ray
from pathlib import Path
from nds_plugin.engine.config import EngineConfig
from nds_plugin.engine.ray_executor import RayExecutor
from nds_plugin.source.index import SourceIndex
index = SourceIndex.load(sys.argv[1])
test_ray.partitioned(index, Path(sys.argv[2]), RayExecutor(EngineConfig(engine="ray", ray_address=sys.argv[3])))
"""


@in_test_ray
def test_the_job_itself_is_killed_and_the_next_start_goes_on(
    cluster: Any, made: Made, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made.index.save(tmp_path / "index.parquet", "key")
    arguments = (str(tmp_path / "index.parquet"), str(tmp_path / "out"), cluster.address)
    process = started_until(
        DRIVER, lambda: any((tmp_path / "out/features").glob("*.npy")), *arguments, seconds=240
    )
    process.kill()
    assert process.wait() == -9
    caplog.set_level("INFO")
    executor = RayExecutor(EngineConfig(engine="ray", ray_address=cluster.address))
    partitioned(made.index, tmp_path / "out", executor)
    assert "features: kept " in caplog.text
    found = hashes(tmp_path / "out", "partition*", "partition/*")
    assert found == hashes(made.folder, "partition*", "partition/*")


def test_a_folder_that_is_nowhere_is_told_as_in_one_process(cluster: Any, tmp_path: Path) -> None:
    executor = RayExecutor(EngineConfig(engine="ray", ray_address=cluster.address))
    index = coloured(tmp_path / "images", 32)
    for path in index.column("file_name"):
        Path(path).unlink()
    with pytest.raises(
        NDSError, match="32 of 32 images cannot be read, all of them: is the image folder right"
    ):
        partitioned(index, tmp_path, executor)


def test_a_shard_that_fails_on_a_node_is_done_by_another(
    cluster: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import ray_nodes

    node = cluster.head_node.node_id
    executor = RayExecutor(EngineConfig(engine="ray", ray_address=cluster.address))
    ray_nodes.wait_for_losses(cluster)
    work = functools.partial(ray_nodes.refused_by, node)
    shards = [Shard(f"piece {i}", tmp_path / f"{i}.txt", i) for i in range(3)]
    done = executor.map(Pass("pieces", work, lambda shard: shard.path.exists()), shards)
    assert sorted(done) == ["piece 0", "piece 1", "piece 2"]
    told = [record.getMessage() for record in caplog.records if "failed (attempt" in record.getMessage()]
    assert told
    assert all("attempt 1 of 3" in line and "OSError" in line and "not mounted" in line for line in told)


def test_a_folder_that_the_nodes_do_not_share_is_told(cluster: Any, tmp_path: Path) -> None:
    import ray_nodes

    executor = RayExecutor(EngineConfig(engine="ray", ray_address=cluster.address))
    work = ray_nodes.nothing
    with pytest.raises(NDSError, match=r"node .* wrote .*x\.txt, which is not seen from .*all nodes share"):
        executor.map(Pass("pieces", work, lambda _: False), [Shard("piece", tmp_path / "x.txt", 0)])


def test_a_task_that_no_node_can_run_is_refused(cluster: Any) -> None:
    with pytest.raises(
        NDSError, match=r"no node of the Ray cluster has the 64 cores and 0 GPUs of a task.*--ray-cpus"
    ):
        RayExecutor(EngineConfig(engine="ray", ray_address=cluster.address, ray_cpus=64))


def _joined(address: str, before: str = "", **variables: str) -> str:
    """The line of a process that joins a cluster; ``before`` runs first, with environment variables."""
    code = (
        f"{before}\nfrom nds_plugin.command_line import run\nfrom nds_plugin.engine.config import EngineConfig\n"
        "from nds_plugin.engine.ray_executor import RayExecutor\n"
        f"run(lambda: RayExecutor(EngineConfig(engine='ray', ray_address={address!r})))"
    )
    environment = {**os.environ, "RAY_TMPDIR": "/nowhere", "RAY_ADDRESS": "", **variables}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 2, done.stderr
    return done.stderr.strip().splitlines()[-1]


def test_other_versions_are_told_in_a_line(cluster: Any) -> None:
    line = _joined(cluster.address, "import ray; ray.__version__ = '1.0.0'")
    assert line.startswith("error: the Ray cluster at ")
    assert "runs other versions" in line
    assert "this process Ray 1.0.0 on Python" in line


def test_an_address_where_nothing_listens_is_told_in_a_line() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    assert f"no Ray cluster answers at 127.0.0.1:{port}" in _joined(f"127.0.0.1:{port}")
    with socket.socket() as other:  # something listens, and says nothing
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert f"what listens at 127.0.0.1:{port} is no Ray cluster" in _joined(f"127.0.0.1:{port}")
        assert f"127.0.0.1:{port} is no Ray cluster" in _joined("auto", RAY_ADDRESS=f"127.0.0.1:{port}")
    for address in ("nonsense", "ray://head:10001"):
        with pytest.raises(NDSError, match="must be HOST:PORT of a cluster's head, auto or local"):
            RayExecutor(EngineConfig(engine="ray", ray_address=address))
