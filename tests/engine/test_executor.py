"""Passes over shards: what an executor promises, in this process and on the ranks of a launcher."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ranks import Ranks

from nds_plugin.engine.config import EngineConfig
from nds_plugin.engine.executor import ATTEMPTS, RECORD, RECORD_KIND, Executor, LocalExecutor, Pass, Shard
from nds_plugin.engine.opening import open_executor
from nds_plugin.errors import NDSError
from nds_plugin.files.artifacts import atomic_write, read_json


def _write(shared: str, argument: int, path: Path) -> None:
    with atomic_write(path, "w") as file:
        file.write(f"{shared} {argument}")


def _is_done(shard: Shard[int]) -> bool:
    return shard.path.exists()


def shards(folder: Path, count: int = 5) -> Iterator[Shard[int]]:
    return (Shard(f"piece {i}", folder / f"{i}.txt", i) for i in range(count))


def content(folder: Path) -> list[str]:
    return [path.read_text() for path in sorted(folder.glob("*.txt"))]


WHOLE = [f"x {i}" for i in range(5)]


def test_every_shard_makes_its_file_and_one_that_is_there_is_kept(tmp_path: Path) -> None:
    executor, todo = LocalExecutor(), Pass("pieces", _write, _is_done, "x")
    assert executor.map(todo, shards(tmp_path)) == [f"piece {i}" for i in range(5)]
    assert content(tmp_path) == WHOLE
    (tmp_path / "3.txt").unlink()
    assert executor.map(todo, shards(tmp_path)) == ["piece 3"]
    assert content(tmp_path) == WHOLE


def test_the_ranks_of_a_launcher_share_the_shards_and_make_the_same_files(tmp_path: Path) -> None:
    todo = Pass("pieces", _write, _is_done, "x")
    done = [LocalExecutor(Ranks(rank, 3)).map(todo, shards(tmp_path)) for rank in range(3)]
    assert done == [["piece 0", "piece 3"], ["piece 1", "piece 4"], ["piece 2"]]
    assert content(tmp_path) == WHOLE


class _Disk:
    """Work whose shard 2 finds the file system away, some times or always."""

    def __init__(self, failures: int) -> None:
        self.left = failures

    def __call__(self, shared: str, argument: int, path: Path) -> None:
        if argument == 2 and self.left:
            self.left -= 1
            raise OSError(116, "Stale file handle")
        _write(shared, argument, path)


def test_what_the_file_system_refuses_now_and_then_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    LocalExecutor().map(Pass("pieces", _Disk(ATTEMPTS - 1), _is_done, "x"), shards(tmp_path))
    assert content(tmp_path) == WHOLE
    assert "piece 2 failed (attempt 1 of 3), trying again" in caplog.text
    assert not (tmp_path / RECORD).exists()


def test_a_shard_that_fails_three_times_is_named_and_recorded_and_the_others_are_done(tmp_path: Path) -> None:
    disk = _Disk(99)
    with pytest.raises(
        NDSError, match=r"1 shards failed 3 times: piece 2; .*Stale file handle.*failed\.json"
    ):
        LocalExecutor().map(Pass("pieces", disk, _is_done, "x"), shards(tmp_path))
    assert disk.left == 99 - ATTEMPTS
    assert content(tmp_path) == [WHOLE[i] for i in (0, 1, 3, 4)]
    (entry,) = read_json(tmp_path / RECORD, RECORD_KIND)["shards"]
    assert entry["shard"] == "piece 2"
    assert len(entry["errors"]) == ATTEMPTS
    assert LocalExecutor().map(Pass("pieces", _write, _is_done, "x"), shards(tmp_path)) == ["piece 2"]
    assert not (tmp_path / RECORD).exists()


def test_a_disk_that_fails_everywhere_ends_the_pass_early(tmp_path: Path) -> None:
    tried: list[int] = []

    def fails(shared: Any, argument: int, path: Path) -> None:
        tried.append(argument)
        raise OSError(5, "Input/output error")

    with pytest.raises(NDSError, match="10 shards failed 3 times"):
        LocalExecutor().map(Pass("pieces", fails, _is_done), shards(tmp_path, 1000))
    assert len(tried) == 10 * ATTEMPTS


def test_bad_input_and_defects_are_told_at_once(tmp_path: Path) -> None:
    for error in (NDSError("bad input"), KeyError("a defect")):
        tried: list[int] = []

        def fails(
            shared: Any, argument: int, path: Path, error: Exception = error, tried: Any = tried
        ) -> None:
            tried.append(argument)
            raise error

        with pytest.raises(type(error)):
            LocalExecutor().map(Pass("pieces", fails, _is_done), shards(tmp_path))
        assert tried == [0]


def test_what_is_called_at_the_end_of_a_shard_may_end_the_pass(tmp_path: Path) -> None:
    def refuse(shard: Shard[int]) -> None:
        if shard.argument == 1:
            raise NDSError("too many")

    with pytest.raises(NDSError, match="too many"):
        LocalExecutor().map(Pass("pieces", _write, _is_done, "x", refuse), shards(tmp_path))
    assert content(tmp_path) == WHOLE[:2]


def test_the_local_engine_is_the_default_and_does_not_import_ray() -> None:
    executor: Executor = open_executor(EngineConfig(), "cpu")
    assert isinstance(executor, LocalExecutor)
    code = (
        "import sys; sys.modules['ray'] = None\n"
        "from nds_plugin.engine import opening, config, ray_executor, ray_cluster\n"
        "opening.open_executor(config.EngineConfig(), 'cpu')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_without_ray_the_line_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        NDSError, match=r"the engine ray .* needs the package ray.*python -m pip install.*\[ray\]"
    ):
        open_executor(EngineConfig(engine="ray"), "cpu")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"engine": "rya"}, "unknown engine engine 'rya'. Did you mean 'ray'"),
        ({"ray_cpus": 0}, "ray_cpus must be 1 or more, got 0"),
        ({"ray_gpus": -0.5}, "ray_gpus must be 0 or more, got -0.5"),
        ({"shard_size": 8}, "shard_size must be 64 or more, got 8"),
    ],
)
def test_bad_settings_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(NDSError, match=message):
        EngineConfig(**values)
    assert EngineConfig(shard_size=200).whole_batches == 192


def test_a_share_of_a_gpu_is_one_of_one_gpu() -> None:
    assert EngineConfig(ray_gpus=0.5).ray_gpus == 0.5
    assert EngineConfig(ray_gpus=2.0).ray_gpus == 2.0
    with pytest.raises(
        NDSError, match=r"--ray-gpus .* must be a share of one GPU or a whole number, got 1\.5"
    ):
        EngineConfig(ray_gpus=1.5)
