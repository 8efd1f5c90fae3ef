"""Forward passes over many images in shards, each a safetensors file, by an executor."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save

from nds_plugin.engine import executor as engine
from nds_plugin.errors import NDSError
from nds_plugin.experts.forward import Forward
from nds_plugin.experts.passes import Pass
from nds_plugin.files.artifacts import atomic_write, content_hash
from nds_plugin.files.locking import turn
from nds_plugin.source.centroids import has_key
from nds_plugin.source.feature_shards import why_unreadable


@dataclass(frozen=True)
class ScoringShards:
    """Who does the passes, and how they are cut.

    Attributes:
        executor: who does them.
        folder: of the shards' files; the caller's to remove.
        size: images in a shard, a multiple of the images of a forward pass.
    """

    executor: engine.Executor
    folder: Path
    size: int


@contextlib.contextmanager
def scoring_shards(executor: engine.Executor, result: Path, size: int) -> Iterator[ScoringShards]:
    """Shards in a folder beside the result of the scoring, which goes when that is there; one process at a time.

    Args:
        executor: who does the passes.
        result: the file that the block writes; what a killed run has done is found again by it.
        size: images in a shard.
    """
    with turn(
        result.with_name(f".{result.name}.lock"), f"another process is making {result}; waiting for it."
    ):
        yield ScoringShards(executor, _folder(result), size)
        remove_shards(result)


def remove_shards(result: Path) -> None:
    """Remove the shards of a result that is there, as a run that was killed at its end has not."""
    shutil.rmtree(_folder(result), ignore_errors=True)


def _folder(result: Path) -> Path:
    return result.with_name(f"{result.stem}.shards")


@dataclass(frozen=True)
class _Images:
    paths: list[str]
    key: str


def forward_in_shards(
    forward: Forward, experts: str, groups: Sequence[list[str]], shards: ScoringShards
) -> Iterator[Pass]:
    """What the passes over each group of images leave, group by group; in memory is one group's.

    Args:
        forward: how they are computed.
        experts: hash of the set.
        groups: lists of images.
        shards: who does them.

    Raises:
        NDSError: a shard failed repeatedly.
    """
    readers = shards.executor.readers(forward.config.num_workers)
    shared = replace(forward, config=replace(forward.config, num_workers=readers))
    cut = [_shards(forward, experts, number, paths, shards) for number, paths in enumerate(groups)]
    todo = engine.Pass("scoring", _score, _is_done, shared)
    shards.executor.map(todo, (shard for group in cut for shard in group), sum(map(len, groups)))
    return (_joined(group) for group in cut)


def _shards(
    forward: Forward, experts: str, number: int, paths: list[str], shards: ScoringShards
) -> list[engine.Shard[_Images]]:
    found = []
    for start in range(0, len(paths), shards.size):
        part = paths[start : start + shards.size]
        key = content_hash([experts, forward.config.identity(), forward.device, part, [*map(_stamp, part)]])
        path = shards.folder / f"scores-{number:05d}-{start // shards.size:05d}.safetensors"
        found.append(engine.Shard(f"scores {path.stem[7:]}", path, _Images(part, key), len(part)))
    return found


def _stamp(path: str) -> list[int]:
    """What changes when a file of this machine does; of others nothing is known."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return []
    return [found.st_size, found.st_mtime_ns]


def _score(forward: Forward, images: _Images, path: Path) -> None:
    result = forward.run(images.paths, progress=False)
    tensors = {f"{name}": torch.cat(parts).contiguous() for name, parts in result.outputs.items() if parts}
    tensors["rows"] = torch.tensor(result.rows, dtype=torch.int64)
    said = {"key": images.key, "errors": json.dumps(result.errors), "precision": result.precision}
    with atomic_write(path) as file:
        file.write(save({name: tensor.cpu() for name, tensor in tensors.items()}, said))


def _is_done(shard: engine.Shard[_Images]) -> bool:
    """Whether a file is there, and no image that could not be read now can, here at least."""
    if not has_key(shard.path, shard.argument.key):
        return False
    with safe_open(shard.path, "pt") as file:
        broken = json.loads(file.metadata()["errors"])
    return all(why_unreadable(shard.argument.paths[int(row)]) for row in broken)


def _joined(shards: list[engine.Shard[_Images]]) -> Pass:
    """One group's shards, in their order."""
    result, start, precisions = Pass(), 0, set()
    for shard in shards:
        with safe_open(shard.path, "pt") as file:
            precisions.add(file.metadata()["precision"])
            errors = json.loads(file.metadata()["errors"])
            result.errors.update({start + int(row): said for row, said in errors.items()})
            result.rows += [start + row for row in file.get_tensor("rows").tolist()]
            for name in file.keys():  # noqa: SIM118, not a dict
                if name != "rows":
                    result.outputs.setdefault(int(name), []).append(file.get_tensor(name))
        start += len(shard.argument.paths)
    if len(precisions) > 1:
        raise NDSError(
            f"scoring: the nodes have computed in {' and '.join(sorted(precisions))}: give --precision fp32, which all "
            f"processors know, and remove {shards[0].path.parent}."
        )
    result.precision = precisions.pop()
    return result
