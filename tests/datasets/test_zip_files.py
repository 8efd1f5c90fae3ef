"""Zip files in a form that Python does not read: one line, with what to do."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from nds_plugin.datasets.imagenet.batches import BatchFile, read_batch
from nds_plugin.datasets.openimages.png import MaskArchive
from nds_plugin.errors import NDSError


def _zip(path: Path, member: str, method: int = zipfile.ZIP_DEFLATED, flags: int = 0) -> Path:
    """A zip file whose headers claim a method of compression and flags."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, b"content")
    raw = bytearray(path.read_bytes())
    for header, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        start = raw.index(header) + place
        raw[start : start + 4] = flags.to_bytes(2, "little") + method.to_bytes(2, "little")
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize(
    ("form", "why"),
    [({"method": 9}, "compression method is not supported"), ({"flags": 1}, "is encrypted")],
)
def test_a_member_that_cannot_be_unpacked_is_told_in_one_line(
    tmp_path: Path, form: dict[str, int], why: str
) -> None:
    message = rf"cannot be unpacked here \(.*{why}.*\): unpack the zip file, or pack it anew"
    with pytest.raises(NDSError, match=rf"m\.zip!a/m\.png {message}"):
        MaskArchive(_zip(tmp_path / "m.zip", "a/m.png", **form)).read("m.png")
    for name in ("train_data_batch_1", "train_data_batch_1.npz"):
        with pytest.raises(NDSError, match=rf"\.zip!{name} {message}"):
            read_batch(BatchFile(1, _zip(tmp_path / f"{name}.zip", name, **form), name), 32)
