"""One truth for reading an image: every reader gives the same pixels and the same size, of every format."""

from __future__ import annotations

import ast
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL
import pytest
from detectron2.data.detection_utils import read_image as stock_read_image
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from nds_plugin.d2.data.mapper import read_image
from nds_plugin.d2.data.store_dataset import image_size
from nds_plugin.images import reading as images
from nds_plugin.images.crop_geometry import center_crop
from nds_plugin.images.crops import CenterCrops
from nds_plugin.images.reading import ImageError, load_image, load_stored, read_header
from nds_plugin.service.client.checks import image_fault
from nds_plugin.source.folder import index_folder

PACKAGE = Path(images.__file__).parent


def picture(width: int = 60, height: int = 40) -> Image.Image:
    """No two of its corners are alike."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[..., 0] = np.linspace(0, 250, width)[None, :]
    pixels[..., 1] = np.linspace(0, 250, height)[:, None]
    return Image.fromarray(pixels)


def turned_by(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def test_one_module_of_the_package_opens_images() -> None:
    openers = {"open", "getexif", "draft"}
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Attribute)
                and node.attr in openers
                and "Image" in ast.unparse(node.value)
            ):
                found.add(path.relative_to(PACKAGE).as_posix())
            if isinstance(node, ast.Attribute) and ast.unparse(node) == "utils.read_image":
                found.add(path.relative_to(PACKAGE).as_posix())
    assert found == {"reading.py"}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif", "avif"])
def test_every_reader_turns_an_image_once_as_pillow_does(tmp_path: Path, kind: str, orientation: int) -> None:
    path = tmp_path / f"turned.{kind}"
    try:
        picture().save(path, exif=turned_by(orientation))
    except (OSError, KeyError, ValueError):
        pytest.skip(f"this Pillow does not write {kind}")
    with Image.open(path) as image:
        right = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    size = (right.shape[1], right.shape[0])
    assert size == ((60, 40) if orientation < 5 else (40, 60))
    np.testing.assert_array_equal(np.asarray(load_image(path)), right)
    np.testing.assert_array_equal(read_image(str(path), "RGB"), right)
    np.testing.assert_array_equal(CenterCrops([str(path)], 24)[0].crop, center_crop(load_image(path, 24), 24))
    assert read_header(path).shown == image_size(str(path)) == size
    (record,) = index_folder(tmp_path)
    assert (record.width, record.height) == size


XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("place", ["before the pixels", "after the pixels"])
@pytest.mark.parametrize("form", ["eXIf", "XMP", "raw profile", "a comment"])
def test_the_size_of_a_png_is_known_wherever_its_orientation_stands(
    tmp_path: Path, form: str, place: str
) -> None:
    path, note = tmp_path / "turned.png", PngInfo()
    exif = turned_by(6).tobytes()
    raw = f"\nexif\n{len(exif):8}\n{exif.hex()}\n"
    chunk = {
        "eXIf": _chunk(b"eXIf", exif.removeprefix(b"Exif\0\0")),
        "XMP": _chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP.encode()),
        "raw profile": _chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(raw.encode())),
        "a comment": _chunk(b"tEXt", b"date:create\0today"),
    }[form]
    picture().save(path, pnginfo=note)
    content = path.read_bytes()
    cut = content.index(b"IDAT") - 4 if place == "before the pixels" else len(content) - 12
    path.write_bytes(content[:cut] + chunk + content[cut:])
    size = (60, 40) if form == "a comment" else (40, 60)
    assert load_image(path).size == read_header(path).shown == size


def test_an_orientation_in_xmp_alone_turns_a_photo(tmp_path: Path) -> None:
    for kind in ("jpg", "webp", "tif"):
        path = tmp_path / f"turned.{kind}"
        if kind == "tif":
            picture().save(path, tiffinfo={700: XMP.encode()})
        elif kind == "webp":
            picture().save(path, xmp=XMP.encode())
        else:
            picture().save(path)
            content, note = path.read_bytes(), b"http://ns.adobe.com/xap/1.0/\0" + XMP.encode()
            path.write_bytes(
                content[:2] + b"\xff\xe1" + (len(note) + 2).to_bytes(2, "big") + note + content[2:]
            )
        with Image.open(path) as image:
            right = ImageOps.exif_transpose(image)
        assert load_image(path).size == read_header(path).shown == right.size, kind
        assert int(PIL.__version__.split(".")[0]) < 12 or right.size == (
            40,
            60,
        )  # older ones may not look into XMP


def test_a_damaged_exif_block_leaves_a_photo_upright(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    picture().save(path, exif=turned_by(6))
    content = path.read_bytes()
    path.write_bytes(content.replace(b"Exif\0\0", b"Exif\0\0garbage", 1)[: len(content) + 7])
    assert load_image(path).size == read_header(path).shown == (60, 40)


def test_a_png_damaged_in_the_middle_is_unreadable_for_every_reader(tmp_path: Path) -> None:
    path = tmp_path / "damaged.png"
    pixels = np.random.default_rng(0).integers(60, 255, (200, 300, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 400] = bytes(400)
    path.write_bytes(content)
    for read in (load_image, lambda path: read_image(str(path), "BGR")):
        with pytest.raises(ImageError, match=r"damaged\.png: the image is broken"):
            read(path)
    assert CenterCrops([str(path)], 32)[0].crop is None
    assert "broken" in str(image_fault(path, decode=True))


def test_sixteen_bits_are_the_same_picture_in_every_reader(tmp_path: Path) -> None:
    deep = np.linspace(0, 65535, 60 * 40).astype(np.uint16).reshape(40, 60)
    expected = (deep >> 8).astype(np.uint8)
    for kind in ("png", "tif"):
        path = tmp_path / f"deep.{kind}"
        Image.fromarray(deep).save(path)
        for pixels in (np.asarray(load_image(path)), read_image(str(path), "BGR")):
            np.testing.assert_array_equal(pixels, np.repeat(expected[..., None], 3, axis=2))


@pytest.mark.parametrize(("values", "white"), [((0.0, 0.5, 1.0), 255), ((0.0, 127.5, 300.0), 255)])
def test_floating_point_images_are_shares_of_white_or_grey_levels(
    tmp_path: Path, values: tuple[float, ...], white: int
) -> None:
    Image.fromarray(np.array([[*values, np.nan]], dtype=np.float32)).save(tmp_path / "float.tif")
    black, grey, last, nan = np.asarray(load_image(tmp_path / "float.tif"))[0, :, 0].tolist()
    assert (black, last, nan) == (0, white, 0)
    assert grey in (127, 128)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("transparency", [3, bytes(range(0, 250, 25))])
def test_a_palette_with_transparency_is_read_without_a_warning(tmp_path: Path, transparency: object) -> None:
    flat = picture().quantize(10)
    flat.save(tmp_path / "p.png", transparency=transparency)
    np.testing.assert_array_equal(np.asarray(load_image(tmp_path / "p.png")), np.asarray(flat.convert("RGB")))


@pytest.mark.parametrize("orientation", [None, 1, 3, 6, 8])
@pytest.mark.parametrize("image_format", ["RGB", "BGR", "L", "YUV-BT.601"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_of_an_ordinary_jpeg_the_mapper_sees_what_detectron2_reads(
    tmp_path: Path, mode: str, image_format: str, orientation: int | None
) -> None:
    path = str(tmp_path / "photo.jpg")
    exif = {} if orientation is None else {"exif": turned_by(orientation)}
    picture().convert(mode).save(path, quality=90, **exif)
    ours, stock = read_image(path, image_format), stock_read_image(path, image_format)
    assert ours.dtype == stock.dtype
    np.testing.assert_array_equal(ours, stock)


@pytest.mark.parametrize("content", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
                                     b"\x89HDF\r\n\x1a\n" + bytes(200), b"GRIB" + bytes(3) + b"\1" + bytes(99)])  # fmt: skip
def test_a_format_that_pillow_knows_but_does_not_decode_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "known.jpg"
    path.write_bytes(content)
    for read in (load_image, read_header, lambda path: read_image(str(path), "BGR")):
        with pytest.raises(
            ImageError, match=r"known\.jpg: [A-Z0-9]+, a format that Pillow knows but does not"
        ):
            read(path)


def test_a_decoder_that_is_not_implemented_is_an_image_error(tmp_path: Path) -> None:
    path = tmp_path / "texture.dds"
    picture().save(path)
    content = bytearray(path.read_bytes())
    content[80:88] = struct.pack("<I4s", 4, b"ZZZZ")  # a pixel format by a code of four letters
    path.write_bytes(content)
    with pytest.raises(NotImplementedError), Image.open(path):
        pass
    for read in (load_image, read_header):
        with pytest.raises(ImageError, match=r"texture\.dds: the image is broken \(Unimplemented"):
            read(path)


def test_too_little_memory_is_no_fault_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture().save(tmp_path / "photo.png")

    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "convert", full)
    with pytest.raises(MemoryError):
        load_image(tmp_path / "photo.png")


def test_a_label_image_keeps_its_values(tmp_path: Path) -> None:
    values = np.arange(2400, dtype=np.uint16).reshape(40, 60)
    Image.fromarray(values).save(tmp_path / "labels.png")
    np.testing.assert_array_equal(np.asarray(load_stored(tmp_path / "labels.png", "labels")), values)


def test_header_and_pixels_agree_on_a_name_that_looks_like_a_rectangle(tmp_path: Path) -> None:
    plain, odd = tmp_path / "x.png", tmp_path / "x.png#xywh=1,2,3,4"
    Image.new("RGB", (40, 30), "red").save(plain)
    assert load_image(odd).size == read_header(odd).shown == (3, 4)
    outside = f"{plain}#xywh=40,0,3,4"
    for read in (load_image, read_header):
        with pytest.raises(ImageError, match="lies outside of the 40 x 30 image"):
            read(outside)
    Image.new("RGB", (9, 7), "blue").save(odd, "PNG")  # now there is such a file
    assert load_image(odd).size == read_header(odd).shown == (9, 7)
    assert load_image(f"{odd}#xywh=1,1,4,4").size == read_header(f"{odd}#xywh=1,1,4,4").shown == (4, 4)
