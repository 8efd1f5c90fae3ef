"""What a view shows: each change against torchvision's or a formula written by hand, and how many images have it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as reference

from nds_plugin.images.networks import MEAN, STD
from nds_plugin.ssl.augment import (
    MOCO,
    WORDS,
    Augmentation,
    augment,
    blur,
    crops,
    grey_of,
    hue_matrices,
    jitter,
    plain,
)
from nds_plugin.ssl.batches import units

NOTHING = Augmentation(1.0)  # but mirrored, and crops of other sides
COUNT = 600


def rgb(count: int = 6, side: int = 16) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def numbers(count: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(units(seed, 0, count))[:, :WORDS]


def photographs(count: int, side: int = 8) -> torch.Tensor:
    return torch.randint(
        0, 256, (count, side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


def shown(how: Augmentation, count: int = COUNT) -> torch.Tensor:
    """Views of the first images of a stream, in [0, 1]."""
    found = augment(photographs(count), numbers(count), 8, how)
    return found * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)


def differs(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """Which images do, shape (B,)."""
    return (ours - theirs).abs().amax(dim=(1, 2, 3)) > 1e-3


# -- colours ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "name"), [(0, "adjust_brightness"), (1, "adjust_contrast"), (2, "adjust_saturation")]
)
def test_brightness_contrast_and_saturation_are_those_of_torchvision(place: int, name: str) -> None:
    images, changes = rgb(), torch.full((6, 4), 0.5)
    changes[:, place] = torch.linspace(0, 1, 6)
    found = jitter(images, changes, torch.ones(6, dtype=torch.bool), 0.4, 0.4)
    for image, ours, factor in zip(images, found, (0.6, 0.76, 0.92, 1.08, 1.24, 1.4)):
        assert torch.allclose(ours, getattr(reference, name)(image, factor), atol=1e-3)


def test_the_order_is_brightness_contrast_saturation() -> None:
    images, changes = rgb(), numbers(6)[:, :4].clone()
    changes[:, 3] = 0.5
    found = jitter(images, changes, torch.ones(6, dtype=torch.bool), 0.4, 0.4)
    for image, ours, (first, second, third) in zip(images, found, (0.6 + 0.8 * changes[:, :3]).tolist()):
        theirs = reference.adjust_contrast(reference.adjust_brightness(image, first), second)
        assert torch.allclose(ours, reference.adjust_saturation(theirs, third), atol=1e-3)


def test_an_image_that_is_not_chosen_keeps_its_colours() -> None:
    images, chosen = rgb(), torch.arange(6) % 2 == 0
    found = jitter(images, torch.full((6, 4), 0.9), chosen, 0.4, 0.4)
    assert torch.equal(differs(found, images), chosen)


def hue_turned(images: torch.Tensor, turns: float) -> torch.Tensor:
    changes = torch.full((len(images), 4), 0.5)
    changes[:, 3] = 0.5 + turns  # of at most half a turn
    return jitter(images, changes, torch.ones(len(images), dtype=torch.bool), 0.4, 0.5)


def test_hue_of_0_turns_is_the_identity() -> None:
    assert torch.allclose(hue_turned(rgb(), 0), rgb(), atol=1e-5)


def test_hue_of_half_a_turn_mirrors_colours_at_the_grey_of_the_same_luminance() -> None:
    images = 0.4 + 0.2 * rgb()  # so that none is clipped
    assert torch.allclose(hue_turned(images, 0.5), 2 * grey_of(images) - images, atol=1e-4)


def test_hue_keeps_luminance_and_changes_colours() -> None:
    images = 0.4 + 0.2 * rgb()
    found = hue_turned(images, 0.2)
    assert torch.allclose(grey_of(found), grey_of(images), atol=1e-4)
    assert differs(found, images).all()
    assert torch.allclose(hue_turned(found, -0.2), images, atol=1e-4)


def test_a_grey_image_has_the_luminance_of_the_coloured_one_in_all_channels() -> None:
    grey = shown(replace(NOTHING, grey_share=1.0))
    expected = torch.stack([reference.rgb_to_grayscale(image, 3) for image in shown(NOTHING)])
    assert torch.allclose(grey, expected, atol=1e-3)


# -- blur -------------------------------------------------------------------------------------------


def test_blur_is_torchvisions_by_each_images_own_sigma() -> None:
    images, sigmas = rgb(4, 40), [0.1, 0.7, 1.3, 2.0]
    found = blur(images, torch.tensor(sigmas), torch.ones(4, dtype=torch.bool))
    for image, ours, sigma in zip(images, found, sigmas):
        # A tenth of 40 pixels and the middle one.
        assert torch.allclose(ours, reference.gaussian_blur(image, [5, 5], [sigma, sigma]), atol=1e-5)
    assert (found[3] - images[3]).abs().mean() > 0.1


def test_an_image_that_is_not_chosen_is_not_blurred() -> None:
    images, chosen = rgb(), torch.arange(6) % 3 == 0
    assert torch.equal(differs(blur(images, torch.full((6,), 1.0), chosen), images), chosen)


def test_views_are_blurred_by_sigmas_of_0_1_to_2_pixels() -> None:
    sharp, blurred = shown(NOTHING), shown(replace(NOTHING, blur_share=1.0))
    least = torch.stack([reference.gaussian_blur(image, [3, 3], [0.1, 0.1]) for image in sharp])
    most = torch.stack([reference.gaussian_blur(image, [3, 3], [2.0, 2.0]) for image in sharp])
    # How far an image is from the sharp to the most blurred one.
    done = ((blurred - least) * (most - least)).sum((1, 2, 3)) / (most - least).square().sum((1, 2, 3))
    assert done.min() >= -1e-3
    assert done.max() <= 1 + 1e-3
    assert done.min() < 0.05
    assert done.max() > 0.95


# -- how many images are changed --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "share"),
    [
        (replace(NOTHING, jitter=0.4, hue=0.1), 1.0),
        (replace(NOTHING, jitter=0.4), 1.0),
        (replace(NOTHING, hue=0.1), 1.0),
        (replace(NOTHING, jitter=0.4, hue=0.1, jitter_share=0.8), 0.8),
        (replace(NOTHING, grey_share=0.2), 0.2),
        (replace(NOTHING, blur_share=0.5), 0.5),  # a sigma below a quarter of a pixel changes nothing
    ],
)
def test_the_share_of_images_that_is_asked_for_is_changed(how: Augmentation, share: float) -> None:
    changed = differs(shown(how), shown(NOTHING)).float().mean().item()
    assert changed == pytest.approx(share, abs=0.06)


def test_one_change_does_not_decide_on_another() -> None:
    plain = shown(NOTHING)
    singles = [replace(NOTHING, jitter=0.4, jitter_share=0.5)]
    singles += [replace(NOTHING, grey_share=0.5), replace(NOTHING, blur_share=0.5)]
    changed = torch.stack([differs(shown(how), plain) for how in singles]).float()
    assert torch.corrcoef(changed).fill_diagonal_(0).abs().max() < 0.15


# -- crops ------------------------------------------------------------------------------------------


def places(min_crop: float, side: int = 64, size: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the pixels of crops lie in the image, by column and by row, in pixels, each of shape (COUNT, size)."""
    line = torch.arange(side, dtype=torch.float32)
    x, y = line.expand(side, side), line[:, None].expand(side, side)
    found = crops(torch.stack([x, y, x]).expand(COUNT, 3, side, side), numbers(COUNT), size, min_crop)
    assert torch.allclose(found[:, 0], found[:, :1, 0], atol=1e-3)  # columns are upright
    assert torch.allclose(found[:, 1], found[:, 1, :, :1], atol=1e-3)  # and rows level
    return found[:, 0, 0], found[:, 1, :, 0]


def steps(line: torch.Tensor) -> torch.Tensor:
    """Between two pixels of a crop, which are all the same."""
    apart = line.diff(dim=1)
    assert torch.allclose(apart, apart[:, :1], atol=1e-3)
    return apart[:, 0]


@pytest.mark.parametrize("min_crop", [0.2, 0.5, 1.0])
def test_crops_lie_within_the_image_and_have_the_shares_and_sides_that_are_asked_for(min_crop: float) -> None:
    x, y = places(min_crop)
    width, height = steps(x).abs() * 8 / 64, steps(y).abs() * 8 / 64
    for line, side in ((x, width), (y, height)):
        first, last = line.amin(1) + 0.5 - side * 4, line.amax(1) + 0.5 + side * 4  # edges of the crop
        assert first.min() > -1e-3
        assert last.max() < 64 + 1e-3
    share, ratio = width * height, width / height
    assert share.min() > min(min_crop, 0.75) - 1e-3  # a whole crop is made narrower, to 3:4 of the image
    assert share.max() < 1 + 1e-3
    assert ratio.min() > 3 / 4 - 1e-3
    assert ratio.max() < 4 / 3 + 1e-3


def test_crops_are_of_all_shares_and_lie_everywhere() -> None:
    x, y = places(0.2)
    width, height = steps(x).abs() * 8 / 64, steps(y).abs() * 8 / 64
    share = width * height
    assert share.min() < 0.25
    assert share.max() > 0.9
    assert share.mean() == pytest.approx(0.6, abs=0.03)
    small = share < 0.6
    for line, side in ((x, width), (y, height)):
        at = ((line.mean(1) + 0.5) / 64 - side / 2)[small] / (
            1 - side[small]
        )  # 0: at one edge, 1: at the other
        assert at.min() < 0.05
        assert at.max() > 0.95
        assert at.mean() == pytest.approx(0.5, abs=0.05)


def test_half_of_the_crops_are_mirrored_and_none_is_upside_down() -> None:
    x, y = places(0.2)
    assert (steps(x) < 0).float().mean().item() == pytest.approx(0.5, abs=0.06)
    assert (steps(y) > 0).all()


# -- the same again ---------------------------------------------------------------------------------


@pytest.mark.parametrize("version", MOCO)
def test_the_same_image_at_the_same_position_always_looks_the_same(version: int) -> None:
    pixels, how = photographs(1, 16).repeat(20, 1, 1, 1), MOCO[version]
    state = torch.random.get_rng_state()
    found = augment(pixels, numbers(20), 16, how)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(3)
    assert torch.equal(augment(pixels, numbers(20), 16, how), found)
    for one, other in ((found[1:], found[:-1]), (augment(pixels, numbers(20, seed=1), 16, how), found)):
        assert differs(one, other).all()


def test_a_view_depends_on_its_own_numbers_alone() -> None:
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), dtype=np.uint8))
    numbers = torch.from_numpy(units(0, 0, 6))[:, :WORDS]
    for version, how in MOCO.items():
        whole = augment(pixels, numbers, 16, how)
        alone = augment(pixels[2:3], numbers[2:3], 16, how)
        assert torch.allclose(whole[2:3], alone, atol=1e-5), version


def test_a_crop_of_everything_is_the_image_and_its_mirror_image() -> None:
    image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    numbers = torch.full((2, WORDS), 0.5)
    numbers[:, 1] = 0.5  # ratio 1
    numbers[0, 4] = 0.0
    found = crops(image, numbers, 16, 1.0)
    assert torch.allclose(found[0], image[0].flip(-1), atol=1e-5)
    assert torch.allclose(found[1], image[1], atol=1e-5)


def test_turning_the_hue_leaves_luminance_and_a_whole_turn_leaves_all() -> None:
    image = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    turned = torch.einsum("bij,bjhw->bihw", hue_matrices(torch.tensor([0.3, 1.0])), image)
    assert torch.allclose(grey_of(turned), grey_of(image), atol=1e-5)
    assert torch.allclose(turned[1], image[1], atol=1e-4)
    assert not torch.allclose(turned[0], image[0], atol=0.05)


def test_a_second_batch_inverts_no_matrix_for_which_a_gpu_would_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    first = hue_matrices(torch.tensor([0.3]))
    monkeypatch.setattr(torch.linalg, "inv", lambda _: pytest.fail("inverted again"))
    assert torch.equal(hue_matrices(torch.tensor([0.3])), first)


def test_without_changes_a_view_is_the_plain_image() -> None:
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8))
    found = augment(pixels, torch.full((3, WORDS), 0.5), 16, Augmentation(1.0))
    assert torch.allclose(found, plain(pixels, 16), atol=1e-4)
