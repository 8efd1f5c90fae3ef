"""How experts are trained and how a client's images are scored: the settings, without torch."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from nds_plugin.errors import NDSError
from nds_plugin.experts.manifest import ARCH, EXPERT_KINDS, HEAD, MAX_CROP, MIN_CROP, NETWORK, TASKS
from nds_plugin.experts.scores import METRICS
from nds_plugin.files.artifacts import file_hash
from nds_plugin.images.named_network import DEFAULT_NETWORK, NAMES, NamedNetwork
from nds_plugin.images.precisions import PRECISIONS
from nds_plugin.settings import Settings, setting

INITS = ("shared", "scratch")
_TASK_HELP = "rotation (needs no labels) or, of kind network alone, supervised (the source's image labels)"
_SEED_HELP = "of heads, seed of the draw by share; of networks, of weights, order and crops"
_PRECISION_HELP = "number format of the convolutions: auto, fp32, bf16 or fp16"


@dataclass(frozen=True)
class ExpertKind(Settings):
    """What experts are; each kind has settings of its own, see ``EXPERT_CONFIGS``."""

    what: ClassVar[str] = "expert"

    kind: str = setting(
        HEAD,
        "head: a linear classifier per cluster, all on one frozen network; network: a ResNet-18 per cluster (the "
        "paper's)",
        choices=EXPERT_KINDS,
    )


@dataclass(frozen=True)
class ExpertConfig(Settings):
    """How experts are trained; the values are our choice, the paper's schedule is not known.

    The rate of SGD warms up linearly and falls by a cosine. Every expert takes as many steps, whatever
    its cluster's size, so that experts differ by what they saw and not by how long.
    """

    what: ClassVar[str] = "expert"

    task: str = setting("rotation", _TASK_HELP, choices=TASKS)
    crop_size: int = setting(
        224, "side of the crops in pixels; also of the features", least=MIN_CROP, most=MAX_CROP
    )
    steps: int = setting(2000, "training steps of every expert", least=1)
    batch_size: int = setting(32, "crops per step; rotation makes four inputs of each", least=1)
    base_lr: float = setting(0.05, "highest learning rate of SGD", above=0)
    weight_decay: float = setting(1e-4, "weight decay of SGD", least=0, config="")
    momentum: float = setting(0.9, "momentum of SGD", least=0, config="")
    seed: int = setting(0, _SEED_HELP, least=0)
    init: str = setting("shared", "start from the shared rotation network or from scratch", choices=INITS)
    shared_steps: int = setting(
        5000, "training steps of the shared network; 0, with init scratch, trains none", least=0
    )
    pretrained: str = setting(
        "",
        "of kind network, a checkpoint of a ResNet-18, by torchvision's, timm's or Detectron2's names, from which the shared "
        "network starts, or with init scratch each expert; random weights when empty",
        decides=False,
    )
    amp: bool = setting(True, "mixed precision where the device has it", config="")
    precision: str = setting("auto", _PRECISION_HELP, choices=PRECISIONS, config="")
    num_workers: int = setting(0, "processes that read images", least=0, decides=False, config="")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pretrained and not Path(self.pretrained).is_file():
            raise NDSError(f"expert pretrained (NDS.EXPERTS.PRETRAINED): no such file: {self.pretrained}.")
        if self.init == "shared" and self.shared_steps < 1:
            raise NDSError(
                f"expert shared_steps must be 1 or more, got {self.shared_steps}: without a shared network, "
                "experts start from scratch (--init scratch, NDS.EXPERTS.INIT)."
            )

    def identity(self) -> dict[str, Any]:
        """What decides the trained weights."""
        return {**super().identity(), "arch": ARCH, **self._start}

    @functools.cached_property
    def _start(self) -> dict[str, str]:
        """The weights that training starts from: read once, though every cluster's key holds them."""
        return {"pretrained": file_hash(self.pretrained)} if self.pretrained else {}

    def shared_identity(self) -> dict[str, Any]:
        """What decides the shared network's weights."""
        values = self.identity()
        del values["steps"], values["init"]
        return values


@dataclass(frozen=True)
class HeadConfig(NamedNetwork):
    """On which network head experts stand and how they are trained; the values are our choice.

    The features of the images that heads are fitted on lie on disk, 16 D bytes an image (20 KB of 1,280 features).
    While a head is fitted, 48 D bytes of memory are taken for each image of its cluster.
    """

    what: ClassVar[str] = "expert"

    network: str = setting(
        "",
        f"of kind head, the frozen network under all heads: {NAMES}; {DEFAULT_NETWORK} where neither network nor "
        "weights are given",
        decides=False,
    )
    task: str = setting("rotation", _TASK_HELP, choices=TASKS)
    crop_size: int = setting(224, "side of the crops in pixels", least=MIN_CROP, most=MAX_CROP)
    c: float = setting(
        0.001,
        "inverse strength of the regularisation of heads; it weighs the sum of the losses, so that heads of few images are "
        "held back more, and a smaller share makes it stronger",
        above=0,
    )
    share: float = setting(
        1.0, "share of each cluster's images that its head is fitted on, a random draw", above=0, most=1
    )
    seed: int = setting(0, _SEED_HELP, least=0)
    batch_size: int = setting(
        128, "images that a worker decodes at a time", least=1, decides=False, config=""
    )
    num_workers: int = setting(0, "processes that read images", least=0, decides=False, config="")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.task != "rotation":
            raise NDSError(
                f"head experts know the task 'rotation' alone, got {self.task!r}: on one frozen backbone the linear "
                "layer of a client's labels would be the same for all clusters; use experts of kind network (--kind, NDS.EXPERTS.KIND)."
            )
        if not self.is_named:
            object.__setattr__(self, "network", DEFAULT_NETWORK)


EXPERT_CONFIGS: dict[str, type[ExpertConfig] | type[HeadConfig]] = {NETWORK: ExpertConfig, HEAD: HeadConfig}


@dataclass(frozen=True)
class ScoringConfig(Settings):
    """How a client's images are scored.

    If the experts do not all fit into ``resident_mb``, crops are kept instead, ``crops_mb`` at a time,
    and the experts are loaded once per such chunk.
    """

    what: ClassVar[str] = "scoring"

    # Not decisive: all metrics are kept in ``Scores.details``.
    metric: str = setting("log_likelihood", "which score is taken for z", choices=METRICS, decides=False)
    max_images: int | None = setting(
        None, "score only so many images, a random draw; describing: of each cluster", least=1, none=0
    )
    seed: int = setting(0, "seed of that draw, and of the folds of the supervised task", least=0, config="")
    precision: str = setting("auto", _PRECISION_HELP, choices=PRECISIONS, config="")
    num_workers: int = setting(2, "processes that read images", least=0, decides=False, config="")
    batch_size: int = setting(16, "images that a worker decodes at a time", least=1, decides=False, config="")
    resident_mb: int = setting(4096, "memory for experts held at once", least=1, decides=False, config="")
    crops_mb: int = setting(1024, "memory for crops held at once", least=1, decides=False, config="")
    folds: int = setting(5, "folds of the cross-validation of the supervised task", least=2, config="")
