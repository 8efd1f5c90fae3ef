"""Damaged image files of every format: all readers give the pixels of Pillow's strict decoding, or all refuse the file."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageOps

from nds_plugin.d2.data.mapper import read_image
from nds_plugin.images import reading as images
from nds_plugin.images.crop_geometry import center_crop
from nds_plugin.images.crops import CenterCrops
from nds_plugin.images.reading import NOT_DECODED, ImageError, load_image, read_header
from nds_plugin.service.client.checks import image_fault

ROUNDS = int(os.environ.get("NDS_DAMAGE_ROUNDS", "15"))
MOST_PIXELS = 50_000  # of a damaged header; more would be decoded, too, at the cost of minutes
SIDE = 32  # of the crops; the JPEGs are large enough to be decoded at a reduced scale for them


def _picture(width: int, height: int) -> Image.Image:
    rng = np.random.Generator(np.random.PCG64(7))
    coarse = rng.integers(0, 255, (12, 15, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def _formats() -> dict[str, bytes]:
    """A file of each format that Pillow both writes and reads here, turned by EXIF where the format can say so."""
    Image.init()
    exif = Image.Exif()
    exif[0x0112] = 6
    found = {}
    for kind in sorted(Image.SAVE):
        buffer = io.BytesIO()
        for mode in ("RGB", "L", "1", "F"):
            try:
                # Some formats are decoded by loops in Python.
                size = (180, 150) if kind in ("JPEG", "MPO") else (60, 44)
                _picture(*size).convert(mode).save(buffer, kind, exif=exif)
                with Image.open(buffer) as image:
                    image.load()
                    small = image.width * image.height <= MOST_PIXELS  # those of ICNS are not
            except Exception:
                buffer = io.BytesIO()
            else:
                found |= {kind: buffer.getvalue()} if small else {}
                break
    return found


FORMATS = _formats()


def _damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Bytes zeroed, cut off, swapped or flipped, some of them near the start, where the headers are."""
    data = bytearray(content)
    reach = len(data) if rng.random() < 0.6 else min(len(data), 200)
    start = int(rng.integers(reach))
    length = int(rng.integers(1, 1 + min(400, len(data) - start)))
    kind = rng.integers(4)
    if kind == 0:
        data[start : start + length] = bytes(length)
    elif kind == 1:
        del data[start:]
    elif kind == 2:
        other = int(rng.integers(len(data)))
        data[start], data[other] = data[other], data[start]
    else:
        data[start] ^= 1 << int(rng.integers(8))
    return bytes(data)


def _strict(path: Path) -> npt.NDArray[np.uint8] | None:
    """What Pillow makes of a file; None where it refuses, or knows the format but does not decode it."""
    try:
        with Image.open(path) as image:
            if image.format in NOT_DECODED or image.width * image.height > MOST_PIXELS:
                return None
            image.load()
            try:
                upright = ImageOps.exif_transpose(image)
            except Exception:  # a damaged EXIF block beside whole pixels
                upright = image
            if upright.mode == "P" and "transparency" in upright.info:
                upright = upright.convert("RGBA")
            return None if upright.mode in ("I", "F", "I;16") else np.asarray(upright.convert("RGB"))
    except Exception:
        return None


def _read(path: Path) -> npt.NDArray[np.uint8] | None:
    try:
        return np.asarray(load_image(path))
    except ImageError as error:
        assert str(path) in str(error)
        assert "\n" not in str(error)
        return None


def _readers_agree(path: Path, pixels: npt.NDArray[np.uint8] | None) -> None:
    """All other readers give these pixels, or refuse the file if there are none."""
    item = CenterCrops([str(path)], SIDE)[0]
    fault = image_fault(path, decode=True)
    if pixels is None:
        assert item.crop is None
        assert fault is not None
        with pytest.raises(ImageError):
            read_image(str(path), "BGR")
        return
    assert fault is None
    np.testing.assert_array_equal(read_image(str(path), "BGR"), pixels[..., ::-1])
    assert read_header(path).shown == (pixels.shape[1], pixels.shape[0])
    assert item.crop is not None
    if path.read_bytes()[:2] != b"\xff\xd8":  # a JPEG is decoded at a reduced scale
        np.testing.assert_array_equal(item.crop, center_crop(Image.fromarray(pixels), SIDE))


@pytest.mark.parametrize("kind", FORMATS)
def test_random_damage_is_strict_pixels_or_an_image_error_in_all_readers(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", MOST_PIXELS)
    seed = int(os.environ.get("NDS_DAMAGE_SEED", "0")) or int.from_bytes(os.urandom(4), "big")
    print(f"NDS_DAMAGE_SEED={seed}")
    rng = np.random.Generator(np.random.PCG64(seed))
    refused = 0
    for number in range(ROUNDS):
        path = tmp_path / f"{number}.{kind.lower()}"
        path.write_bytes(_damaged(FORMATS[kind], rng))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's on damaged files
            expected, pixels = _strict(path), _read(path)
            if expected is not None:
                assert pixels is not None
                np.testing.assert_array_equal(pixels, expected)
            _readers_agree(path, pixels)
        refused += pixels is None
        path.unlink()
    print(kind, refused, "of", ROUNDS)
