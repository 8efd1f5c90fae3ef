"""Augmentation on batches of tensors: every image's changes are a function of its own random numbers.

The numbers come from the position of the image in the stream (:func:`nds_plugin.ssl.batches.units`), so that an
image looks the same on any number of processes and after a resume. Crops are taken by bilinear sampling. Colours
are changed in a fixed order, brightness, contrast, saturation, hue, and hue by a rotation in YIQ (our choice:
torchvision draws the order and rotates in HSV). All is computed in 32 bits, whatever the networks compute in.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Concatenate, ParamSpec, TypeVar

import torch
import torch.nn.functional as F

from nds_plugin.images.networks import MEAN, STD

WORDS = 16  # random numbers that one view of an image takes
_GREY = (0.299, 0.587, 0.114)
_TO_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))
_RATIO = (3 / 4, 4 / 3)


@dataclass(frozen=True)
class Augmentation:
    """What a view is made by.

    Attributes:
        min_crop: smallest share of the image in a crop.
        jitter: largest change of brightness, contrast and saturation; and of hue, in turns.
        hue: see jitter.
        jitter_share, grey_share, blur_share: of the images that are changed so.
    """

    min_crop: float
    jitter: float = 0.0
    hue: float = 0.0
    jitter_share: float = 1.0
    grey_share: float = 0.0
    blur_share: float = 0.0


# The numbers are those of the published code of He et al. (2020) and Chen et al. (2020). Two things differ: version 1
# makes images grey before it changes their colours, here it is after that in both; and the kernel of their blur has no
# end, here it is a tenth of the image wide.
MOCO = {
    1: Augmentation(0.2, jitter=0.4, hue=0.4, grey_share=0.2),
    2: Augmentation(0.2, jitter=0.4, hue=0.1, jitter_share=0.8, grey_share=0.2, blur_share=0.5),
}
_BLUR = (0.1, 2.0)  # range of sigma, in pixels
P = ParamSpec("P")
T = TypeVar("T")


def in_32_bits(
    function: Callable[Concatenate[torch.Tensor, P], T],
) -> Callable[Concatenate[torch.Tensor, P], T]:
    """A function of tensors that autocast leaves alone: the 8 bits of bf16 are too few for places and colours of pixels."""

    @functools.wraps(function)
    def wrapped(first: torch.Tensor, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with torch.autocast(first.device.type, enabled=False):
            return function(first, *args, **kwargs)

    return wrapped


@in_32_bits
def augment(pixels: torch.Tensor, units: torch.Tensor, size: int, how: Augmentation) -> torch.Tensor:
    """Views of images.

    Args:
        pixels: uint8 of shape (B, H, W, 3).
        units: random numbers in [0, 1), of shape (B, WORDS).
        size: side of the views.
        how: what is changed.

    Returns:
        Normalised inputs of shape (B, 3, size, size), channels last.
    """
    images = crops(pixels.permute(0, 3, 1, 2).float() / 255, units, size, how.min_crop)
    if how.jitter or how.hue:
        images = jitter(images, units[:, 5:9], units[:, 9] < how.jitter_share, how.jitter, how.hue)
    if how.grey_share:
        grey = grey_of(images).expand_as(images)
        images = torch.where((units[:, 10] < how.grey_share).view(-1, 1, 1, 1), grey, images)
    if how.blur_share:
        images = blur(images, _BLUR[0] + units[:, 12] * (_BLUR[1] - _BLUR[0]), units[:, 11] < how.blur_share)
    return normalised(images)


def plain(pixels: torch.Tensor, size: int) -> torch.Tensor:
    """The middle of images, unchanged, as inputs; see :func:`augment`."""
    top = (pixels.shape[1] - size) // 2
    left = (pixels.shape[2] - size) // 2
    middle = pixels[:, top : top + size, left : left + size]
    return normalised(middle.permute(0, 3, 1, 2).float() / 255)


def normalised(images: torch.Tensor) -> torch.Tensor:
    """Images in [0, 1] by ImageNet's mean and deviation."""
    mean = torch.tensor(MEAN, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(STD, device=images.device).view(1, 3, 1, 1)
    return ((images - mean) / std).contiguous(memory_format=torch.channels_last)


@in_32_bits
def crops(images: torch.Tensor, units: torch.Tensor, size: int, min_crop: float) -> torch.Tensor:
    """Random crops of share ``min_crop`` to 1 and sides 3:4 to 4:3, mirrored half of the time.

    A crop that would stick out is made narrower, to the image's own width or height.
    """
    share = min_crop + (1 - min_crop) * units[:, 0]
    ratio = torch.exp(math.log(_RATIO[0]) + units[:, 1] * math.log(_RATIO[1] / _RATIO[0]))
    width = (share * ratio).sqrt().clamp(max=1.0)
    height = (share / ratio).sqrt().clamp(max=1.0)
    # Coordinates of the image run from -1 to 1.
    x, y = (1 - width) * (2 * units[:, 2] - 1), (1 - height) * (2 * units[:, 3] - 1)
    mirrored = torch.where(units[:, 4] < 0.5, -width, width)
    theta = torch.zeros(len(images), 2, 3, device=images.device)
    theta[:, 0, 0], theta[:, 0, 2], theta[:, 1, 1], theta[:, 1, 2] = mirrored, x, height, y
    grid = F.affine_grid(theta, [len(images), 3, size, size], align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def jitter(
    images: torch.Tensor, units: torch.Tensor, which: torch.Tensor, most: float, most_hue: float
) -> torch.Tensor:
    """Brightness, contrast, saturation and hue changed by units of shape (B, 4), where ``which`` says so."""
    factors = torch.where(which[:, None], 1 + most * (2 * units[:, :3] - 1), 1.0).view(-1, 3, 1, 1, 1)
    turns = torch.where(which, most_hue * (2 * units[:, 3] - 1), 0.0)
    images = (images * factors[:, 0]).clamp(0, 1)
    mean = grey_of(images).mean(dim=(2, 3), keepdim=True)
    images = (mean + (images - mean) * factors[:, 1]).clamp(0, 1)
    grey = grey_of(images)
    images = (grey + (images - grey) * factors[:, 2]).clamp(0, 1)
    return torch.einsum("bij,bjhw->bihw", hue_matrices(turns), images).clamp(0, 1)


def hue_matrices(turns: torch.Tensor) -> torch.Tensor:
    """Matrices of shape (B, 3, 3) that turn the colour of RGB by so many turns, its luminance unchanged."""
    to_yiq, from_yiq = _yiq(turns.device)
    cos, sin = torch.cos(2 * math.pi * turns), torch.sin(2 * math.pi * turns)
    turned = torch.zeros(len(turns), 3, 3, device=turns.device)
    turned[:, 0, 0] = 1
    turned[:, 1, 1], turned[:, 1, 2], turned[:, 2, 1], turned[:, 2, 2] = cos, -sin, sin, cos
    return from_yiq @ turned @ to_yiq


@functools.cache
def _yiq(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The matrices to YIQ and back, once for each device: to make them, a GPU must have done all before it."""
    to_yiq = torch.tensor(_TO_YIQ, device=device)
    return to_yiq, torch.linalg.inv(to_yiq)


def grey_of(images: torch.Tensor) -> torch.Tensor:
    """Luminance, of shape (B, 1, H, W)."""
    weights = torch.tensor(_GREY, device=images.device).view(1, 3, 1, 1)
    return (images * weights).sum(1, keepdim=True)


def blur(images: torch.Tensor, sigma: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
    """Gaussian blur by sigma, shape (B,), where ``which`` says so; the kernel is a tenth of the image wide."""
    count, channels, height, width = images.shape
    radius = max(1, width // 20)
    steps = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-(steps**2) / (2 * sigma[:, None] ** 2))
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)
    flat = F.pad(images, (radius, radius, radius, radius), mode="reflect").reshape(
        1, count * channels, height + 2 * radius, -1
    )
    flat = F.conv2d(flat, kernel[:, None, None, :], groups=count * channels)
    flat = F.conv2d(flat, kernel[:, None, :, None], groups=count * channels)
    return torch.where(which.view(-1, 1, 1, 1), flat.reshape(images.shape), images)
