"""The settings of network, pretraining and classifier, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from nds_plugin.errors import NDSError
from nds_plugin.images.precisions import PRECISIONS
from nds_plugin.settings import Settings, setting

DEPTHS = (18, 50)
STEMS = ("small", "half", "imagenet")
METHODS = ("moco", "rotnet")
_OF_MOCO = ("version", "queue", "dim", "temperature", "ema")
SCHEDULES = ("cosine", "steps")


@dataclass(frozen=True)
class NetworkConfig(Settings):
    """``MODEL``: which ResNet is pretrained and fine-tuned."""

    what: ClassVar[str] = "network"

    depth: int = setting(18, "layers of the ResNet, 18 or 50")
    width: int = setting(64, "channels of the stem and the first stage; 64 is the published network", least=1)
    stem: str = setting(
        "small",
        "small: a 3x3 convolution and no pooling, for 32 and 64 pixels; half: the same of stride 2; imagenet: 7x7 of stride 2, and pooling",
        choices=STEMS,
    )
    weights: str = setting("", "file of a ResNet to start from; empty: random weights", decides=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.depth not in DEPTHS:
            raise NDSError(f"MODEL.DEPTH must be 18 or 50, got {self.depth}.")


@dataclass(frozen=True)
class TrainingConfig(Settings):
    """What both stages are told: images, iterations, SGD with momentum and its learning rate."""

    what: ClassVar[str] = "training"
    node: ClassVar[str] = "TRAINING"  # of a config, as errors call it

    size: int = setting(32, "side of the network's input in pixels", least=8)
    batch_size: int = setting(256, "images per iteration, of all processes together", least=2)
    iterations: int = setting(200_000, "length of the training", least=1)
    base_lr: float = setting(0.03, "learning rate at the start", above=0.0)
    momentum: float = setting(0.9, "of SGD", least=0.0, below=1.0)
    weight_decay: float = setting(1e-4, "of SGD", least=0.0)
    schedule: str = setting(
        "cosine",
        "cosine: down to 0 over the training; steps: divided by 10 at each of STEPS",
        choices=SCHEDULES,
    )
    steps: tuple[int, ...] = setting((), "iterations at which the schedule steps divides the learning rate")
    warmup: int = setting(0, "iterations over which the learning rate rises from 0", least=0)
    checkpoint_period: int = setting(5000, "iterations between checkpoints", least=1, decides=False)
    precision: str = setting(
        "auto",
        "number format of the convolutions; auto: 16 bits where the hardware computes in them",
        choices=PRECISIONS,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.schedule == "steps" and not self.steps:
            raise NDSError(
                f"{self.node}.SCHEDULE steps needs {self.node}.STEPS, the iterations at which it steps."
            )
        for step in self.steps:
            if type(step) is not int or step < 1:
                raise NDSError(
                    f"{self.node}.STEPS must be iterations, whole numbers of 1 or more, got {step!r}."
                )
        if self.steps and self.schedule != "steps":
            raise NDSError(
                f"{self.node}.STEPS {self.steps} are of the schedule steps, but {self.node}.SCHEDULE is {self.schedule}: set "
                "SCHEDULE steps, or leave STEPS out."
            )
        if self.steps and max(self.steps) >= self.iterations:
            raise NDSError(
                f"{self.node}.STEPS {max(self.steps)} must be before the end of the training, which has {self.node}.ITERATIONS "
                f"{self.iterations}."
            )
        if self.warmup >= self.iterations:
            raise NDSError(
                f"{self.node}.WARMUP {self.warmup} must be shorter than the training, which has {self.node}.ITERATIONS "
                f"{self.iterations}."
            )


@dataclass(frozen=True)
class PretrainConfig(TrainingConfig):
    """``PRETRAIN``: rate, momentum, decay, K, D, t, m and augmentation are MoCo v1's (He et al., 2020); schedule (a cosine, as in
    version 2), size and length are our choice."""

    what: ClassVar[str] = "pretraining"
    node: ClassVar[str] = "PRETRAIN"

    method: str = setting(
        "moco", "moco: contrast with a queue; rotnet: which rotation was it", choices=METHODS
    )
    version: int = setting(
        1, "of MoCo: 2 adds blur and a hidden layer in the head, and weaker changes of hue", least=1, most=2
    )
    queue: int = setting(65_536, "keys that MoCo contrasts with", least=1)
    dim: int = setting(128, "outputs of MoCo's head", least=1)
    temperature: float = setting(0.07, "of MoCo's loss; the paper of version 2 takes 0.2", above=0.0)
    ema: float = setting(0.999, "momentum of MoCo's key network", least=0.0, below=1.0)
    bn_groups: int = setting(
        8,
        "parts of a batch with statistics of their own in batch norms, as on so many GPUs; MoCo needs more than one",
        least=1,
    )

    def deciding(self) -> dict[str, Any]:
        """The settings on which the weights depend: those of MoCo are nothing to another method."""
        without = () if self.method == "moco" else _OF_MOCO
        return {name: value for name, value in self.identity().items() if name not in without}


@dataclass(frozen=True)
class FinetuneConfig(TrainingConfig):
    """``FINETUNE``: a classifier on the target."""

    what: ClassVar[str] = "fine-tuning"
    node: ClassVar[str] = "FINETUNE"

    batch_size: int = setting(64, "images per iteration", least=2)
    iterations: int = setting(5000, "length of the training", least=1)
    base_lr: float = setting(0.01, "learning rate at the start", above=0.0)
    linear: bool = setting(False, "train only the last layer on the frozen network (linear evaluation)")
    min_crop: float = setting(0.3, "smallest share of an image in a training crop", above=0.0, most=1.0)
