"""Where the source's side runs: the settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nds_plugin.errors import NDSError
from nds_plugin.settings import Settings, setting

LOCAL, RAY = "local", "ray"
ENGINES = (LOCAL, RAY)
# A multiple of the 32 and 64 images of a forward pass, so that shards cut no batch.
_WHOLE_BATCHES = 64


@dataclass(frozen=True)
class EngineConfig(Settings):
    """Where passes over the source run and in what pieces; nothing that they make depends on it."""

    what: ClassVar[str] = "engine"

    engine: str = setting(
        LOCAL,
        "where the source is partitioned and experts are trained and scored: local (the processes of this job) or "
        "ray (a cluster; see docs/scale.md)",
        choices=ENGINES,
        decides=False,
        config=".ENGINE",
    )
    ray_address: str = setting(
        "auto",
        "of the Ray cluster: HOST:PORT of its head, auto for the one of this machine, local to start one here",
        decides=False,
        config="ADDRESS",
    )
    ray_cpus: int = setting(
        1,
        "cores that a task on Ray takes; all but the first read images",
        least=1,
        decides=False,
        config="CPUS",
    )
    ray_gpus: float = setting(
        0.0,
        "share of a GPU that a task on Ray takes; 0: networks run on CPUs",
        least=0,
        decides=False,
        config="GPUS",
    )
    shard_size: int = setting(
        4096,
        f"images in one piece of a pass, a multiple of {_WHOLE_BATCHES}; what a killed run loses is a piece at most",
        least=_WHOLE_BATCHES,
        decides=False,
        config=".SHARD_SIZE",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ray_gpus > 1 and self.ray_gpus != int(self.ray_gpus):
            raise NDSError(
                f"--ray-gpus (NDS.RAY.GPUS) must be a share of one GPU or a whole number, got {self.ray_gpus:g}."
            )

    @property
    def whole_batches(self) -> int:
        """``shard_size``, rounded down to whole forward passes."""
        return self.shard_size // _WHOLE_BATCHES * _WHOLE_BATCHES
