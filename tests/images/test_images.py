"""Reading images: every kind of broken file is one clear line; crops are a function of the file."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nds_plugin.errors import NDSError
from nds_plugin.images import reading as images
from nds_plugin.images.crop_geometry import center_crop, random_crop, read_center_crop
from nds_plugin.images.reading import ImageError, load_image
from nds_plugin.source.image_folders import list_images


def gradient(width: int, height: int) -> Image.Image:
    """Red grows to the right, green downwards."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[..., 0] = np.linspace(0, 255, width)[None, :]
    pixels[..., 1] = np.linspace(0, 255, height)[:, None]
    return Image.fromarray(pixels)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    gradient(400, 300).save(path, quality=95)
    return path


def test_a_photo_is_read_as_rgb(photo: Path) -> None:
    image = load_image(photo)
    assert (image.mode, image.size) == ("RGB", (400, 300))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"the file is empty \(0 bytes\)"),
        (b"this is text, not an image", "not an image"),
        (b"\xff\xd8\xff\xe0 no jpeg follows", "the image is cut short"),
    ],
)
def test_a_file_without_an_image_is_one_clear_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=message) as error:
        load_image(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_folder_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such image file"):
        load_image(tmp_path / "none.jpg")
    with pytest.raises(ImageError, match="cannot be read .*directory"):
        load_image(tmp_path)


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_a_truncated_file_is_an_error_and_never_half_an_image(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"cut.{ending}"
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (200, 200, 3), dtype=np.uint8)).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageError, match="the image is (cut short|broken)"):
        load_image(path)


def test_a_decompression_bomb_is_refused_before_it_is_decoded(
    photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 400 * 300 - 1)
    with pytest.raises(ImageError, match="decompression bomb"):
        load_image(photo)


def test_a_real_bomb_of_a_few_kilobytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    Image.new("1", (20_000, 20_000)).save(path)
    assert path.stat().st_size < 200_000
    with pytest.raises(ImageError, match="more than 178956970 pixels"):
        load_image(path)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    gradient(40, 30).convert(mode).save(path)
    assert load_image(path).mode == "RGB"


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    Image.fromarray(np.full((8, 8), 128 * 256, dtype=np.uint16)).save(path)
    assert np.asarray(load_image(path)).tolist() == np.full((8, 8, 3), 128).tolist()


@pytest.mark.parametrize(
    ("orientation", "corner"), [(1, (0, 0)), (3, (255, 255)), (6, (0, 255)), (8, (255, 0))]
)
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, corner: tuple[int, int]) -> None:
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = orientation
    gradient(400, 300).save(path, exif=exif, quality=95)
    image = load_image(path)
    assert image.size == ((400, 300) if orientation in (1, 3) else (300, 400))
    red, green, _ = image.getpixel((0, 0))
    np.testing.assert_allclose((red, green), corner, atol=4)


def test_reduced_decoding_keeps_twice_the_size_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    gradient(1600, 1200).save(path, quality=95)
    small = load_image(path, shorter_side=100)
    assert 200 <= min(small.size) < 600
    whole, quick = center_crop(load_image(path), 64), read_center_crop(path, 64)
    assert np.abs(whole.astype(int) - quick.astype(int)).max() <= 3


@pytest.mark.parametrize("shape", [(400, 300), (300, 400), (50, 40), (500, 20)])
def test_the_center_crop_is_the_middle_square(shape: tuple[int, int]) -> None:
    crop = center_crop(gradient(*shape), 56)
    assert (crop.shape, crop.dtype) == ((56, 56, 3), np.uint8)
    np.testing.assert_allclose(crop[..., :2].mean(axis=(0, 1)), 127.5, atol=1.5)
    side = 56 / 64 * min(shape)
    spans = crop[..., :2].astype(float).max(axis=(0, 1)) - crop[..., :2].min(axis=(0, 1))
    np.testing.assert_allclose(spans, (side / shape[0] * 255, side / shape[1] * 255), rtol=0.1, atol=2)


def test_random_crops_repeat_under_one_key_and_differ_under_another() -> None:
    image = gradient(200, 150)
    crops = [random_crop(image, 32, np.random.Generator(np.random.PCG64(seed))) for seed in (3, 3, 4)]
    assert crops[0].shape == (32, 32, 3)
    np.testing.assert_array_equal(crops[0], crops[1])
    assert (crops[0] != crops[2]).any()


def test_half_of_the_random_crops_are_mirrored_and_none_is_upside_down() -> None:
    rng = np.random.Generator(np.random.PCG64(0))
    crops = [random_crop(gradient(200, 150), 16, rng).astype(int) for _ in range(200)]
    mirrored = np.mean([crop[0, 0, 0] > crop[0, -1, 0] for crop in crops])
    assert 0.4 < mirrored < 0.6
    assert all(crop[0, 0, 1] < crop[-1, 0, 1] for crop in crops)


def test_a_folder_is_listed_sorted_and_recursively(tmp_path: Path) -> None:
    for name in ("b.JPG", "a/c.png", ".hidden.jpg", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert list_images(tmp_path) == [str(tmp_path / "a/c.png"), str(tmp_path / "b.JPG")]


def test_a_folder_without_images_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(NDSError, match=f"{re.escape(str(tmp_path))}: no image in this folder .*1 \\.txt"):
        list_images(tmp_path)
    with pytest.raises(NDSError, match="no such folder"):
        list_images(tmp_path / "none")


def test_real_photographs_are_read(nds_data: Path) -> None:
    paths = list_images(nds_data / "detection" / "cityscapes" / "images")[:5]
    crops = [read_center_crop(path, 64) for path in paths]
    assert all(crop.shape == (64, 64, 3) and crop.std() > 5 for crop in crops)
