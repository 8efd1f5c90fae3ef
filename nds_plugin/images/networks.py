"""The experts' network: building it, the number format it runs in, and its inference form."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models import ResNet, resnet18
from torchvision.models.resnet import BasicBlock

from nds_plugin.errors import NDSError, UnknownNameError, unknown_name
from nds_plugin.images.input_form import IMAGENET
from nds_plugin.images.precisions import PRECISIONS

FEATURES = 512  # channels of ResNet-18 after average pooling
MEAN, STD = IMAGENET.mean, IMAGENET.std
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def build_network(outputs: int, seed: int = 0) -> ResNet:
    """A ResNet-18 with ``outputs`` outputs and random weights that only ``seed`` decides.

    The global random state of torch is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not the GPUs', which would stay seeded
        return resnet18(weights=None, num_classes=outputs)


def empty_network(outputs: int) -> ResNet:
    """A ResNet-18 without memory for its weights, to compare names and shapes with or to assign to."""
    with torch.device("meta"):
        return resnet18(weights=None, num_classes=outputs)


def choose_device(name: str = "") -> torch.device:
    """The device of that name; for an empty name the first GPU, or the CPU where there is none.

    Raises:
        NDSError: not a device's name, or a GPU that this machine does not have.
    """
    if not name:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device: torch.device | None = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UnknownNameError(f"unknown device {name!r}: expected 'cpu', 'cuda' or 'cuda:N'.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise NDSError(f"device {name!r}: torch sees {torch.cuda.device_count()} GPUs here; use 'cpu'.")
    return device


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """The number format of the convolutions.

    ``auto`` takes bf16 where the device computes in it: GPUs of that ability (else fp16) and
    CPUs with AVX512-BF16 or AMX, where it was 1.6 to 1.8 times (training) and 2.4 to 2.9 times
    (inference) as fast as fp32 on a two-core EPYC; all other devices take fp32.

    Raises:
        NDSError: an unknown name, or fp16 on a CPU, where it cannot train.
    """
    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, PRECISIONS)
    if precision == "fp16" and device.type == "cpu":
        raise NDSError("precision 'fp16' needs a GPU: use 'auto', 'bf16' or 'fp32' on a CPU.")
    if precision != "auto":
        return _DTYPES[precision]
    if device.type == "cuda":
        # Compute capability 8.0 is the first with bf16 units; older GPUs only emulate it.
        return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16
    if device.type == "cpu" and cpu_has_bf16():
        return torch.bfloat16
    return torch.float32


def cpu_has_bf16() -> bool:
    """Whether the CPU has bf16 arithmetic (AVX512-BF16 or AMX), as far as torch can tell."""
    tests = [
        getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    ]
    return any(test() for test in tests if test is not None)


def precision_name(dtype: torch.dtype) -> str:
    """The name of a number format, as in ``PRECISIONS``."""
    return next(name for name, known in _DTYPES.items() if known == dtype)


def normalise(
    crops: torch.Tensor, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD
) -> torch.Tensor:
    """uint8 crops of shape (B, H, W, 3) to float32 inputs of shape (B, 3, H, W), channels last."""
    scale = torch.tensor(std, device=crops.device) * 255
    shift = torch.tensor(mean, device=crops.device) * 255
    return ((crops.float() - shift) / scale).permute(0, 3, 1, 2)


class InferenceNetwork(nn.Module):
    """A trained network for scoring: batch norm folded into the convolutions, channels last.

    The convolutions run in ``dtype``; pooling and the last layer stay in float32, so that a
    likelihood near 1 keeps its digits.

    Args:
        network: a torchvision ResNet in eval mode; it is not changed.
        dtype: of the convolutions.
    """

    def __init__(self, network: ResNet, dtype: torch.dtype) -> None:
        super().__init__()
        self.trunk = _fused_trunk(network).to(dtype).to(memory_format=torch.channels_last)
        self.head = nn.Linear(network.fc.in_features, network.fc.out_features)
        self.head.load_state_dict(network.fc.state_dict())
        self.dtype = dtype
        self.eval()

    def features(self, inputs: torch.Tensor) -> torch.Tensor:
        """Inputs (B, 3, H, W) to float32 features (B, 512)."""
        inputs = inputs.to(dtype=self.dtype, memory_format=torch.channels_last)
        return self.trunk(inputs).float().mean(dim=(2, 3))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Inputs (B, 3, H, W) to float32 logits (B, outputs)."""
        return self.head(self.features(inputs))


def _fused_trunk(network: ResNet) -> nn.Sequential:
    layers: list[nn.Module] = [fuse_conv_bn_eval(network.conv1, network.bn1), _PoolReLU()]
    for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
        layers += [_FusedBlock(block) for block in stage]
    return nn.Sequential(*layers)


class _PoolReLU(nn.Module):
    """ResNet's ReLU and 3x3 max pooling of stride 2 in one, with the same result to the bit.

    On CPUs torch's own pooling also finds indices, which takes twice as long.
    """

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if inputs.is_cuda:
            return F.max_pool2d(torch.relu_(inputs), 3, stride=2, padding=1)
        # Zeros at the border change nothing, as the ReLU comes last.
        if inputs.shape[2] % 2 or inputs.shape[3] % 2:
            inputs = F.pad(inputs, (0, inputs.shape[3] % 2, 0, inputs.shape[2] % 2))
        return torch.relu_(_pool_pairs(_pool_pairs(inputs, 2), 3))


def _pool_pairs(inputs: torch.Tensor, dim: int) -> torch.Tensor:
    """Maximum over elements 2i - 1, 2i and 2i + 1 of a dimension of even length."""
    even, odd = inputs.unflatten(dim, (-1, 2)).unbind(dim + 1)
    pooled = torch.maximum(even, odd)
    later = pooled.narrow(dim, 1, pooled.shape[dim] - 1)
    torch.maximum(later, odd.narrow(dim, 0, odd.shape[dim] - 1), out=later)
    return pooled


class _FusedBlock(nn.Module):
    """torchvision's BasicBlock without its batch norms."""

    def __init__(self, block: BasicBlock) -> None:
        super().__init__()
        self.conv1 = fuse_conv_bn_eval(block.conv1, block.bn1)
        self.conv2 = fuse_conv_bn_eval(block.conv2, block.bn2)
        down = block.downsample
        self.shortcut = nn.Identity() if down is None else fuse_conv_bn_eval(down[0], down[1])

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = self.conv2(torch.relu_(self.conv1(inputs)))
        return torch.relu_(hidden.add_(self.shortcut(inputs)))


@contextlib.contextmanager
def repeatable() -> Iterator[None]:
    """cuDNN picks the same deterministic algorithms every time inside this block; float32 is not cut to TF32."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield
