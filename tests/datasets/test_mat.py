from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from as_user import cut
from classification_trees import cells
from classification_trees import struct as struct_array
from scipy.io import savemat

from nds_plugin.datasets.whole_images.mat import load_mat, texts, whole_numbers
from nds_plugin.errors import NDSError

HEADER = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x0100) + b"IM"
CELL, DOUBLE = 1, 6


def element(kind: int, data: bytes) -> bytes:
    return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)


def array(mclass: int, sides: tuple[int, ...], content: bytes, name: bytes = b"") -> bytes:
    """A variable as the format lays it out: flags, sides, name, content."""
    flags = element(6, struct.pack("<II", mclass, 0))
    return element(
        14, flags + element(5, struct.pack(f"<{len(sides)}i", *sides)) + element(1, name) + content
    )


NUMBER = array(DOUBLE, (1, 1), element(9, struct.pack("<d", 1.0)))


def nested(depth: int) -> bytes:
    content = NUMBER
    for level in range(depth):
        content = array(CELL, (1, 1), content, b"labels" if level == depth - 1 else b"")
    return HEADER + content


@pytest.mark.parametrize("compressed", [False, True])
def test_lists_of_texts_and_numbers_are_read(tmp_path: Path, compressed: bool) -> None:
    path = tmp_path / "list.mat"
    labels = np.array([[3], [1], [200]], dtype=np.uint8)
    names = ["a.jpg", "ähre.jpg", "犬.jpg"]
    content = {"labels": labels, "file_list": cells(names), "as_cells": cells([7, 8.0])}
    savemat(path, content, do_compression=compressed)
    found = load_mat(path, ("labels", "file_list", "as_cells"))
    assert whole_numbers(found["labels"], path, "labels").tolist() == [3, 1, 200]
    assert whole_numbers(found["as_cells"], path, "as_cells").tolist() == [7, 8]
    assert texts(found["file_list"], path, "file_list") == names


def test_a_hand_made_file_is_read_as_scipy_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "list.mat"
    path.write_bytes(nested(2))
    assert load_mat(path, ("labels",))["labels"][0].item().item() == 1.0


@pytest.mark.parametrize("compressed", [False, True])
def test_a_file_cut_anywhere_is_refused_in_one_line(tmp_path: Path, compressed: bool) -> None:
    path = tmp_path / "list.mat"
    whole = {"labels": np.arange(500.0).reshape(1, -1), "file_list": cells([f"{i}.jpg" for i in range(30)])}
    savemat(path, whole, do_compression=compressed)
    data = path.read_bytes()
    for size in [0, 1, 127, 128, 135, 136, 140, *range(150, len(data), 37), len(data) - 1]:
        path.write_bytes(data[:size])
        with pytest.raises(NDSError, match=r"list\.mat") as caught:
            load_mat(path, ("labels", "file_list"))
        assert "\n" not in str(caught.value)


FUZZ = """
import sys
from pathlib import Path
import numpy as np
from nds_plugin.datasets.whole_images.mat import load_mat
from nds_plugin.errors import NDSError

path = Path(sys.argv[1])
data, rng, refused = path.read_bytes(), np.random.default_rng(int(sys.argv[2])), 0
for _ in range(1000):
    damaged = bytearray(data)
    for place in rng.integers(128, len(data), rng.integers(1, 5)):
        damaged[place] = rng.integers(256)
    path.write_bytes(damaged)
    try:
        load_mat(path, ("labels", "file_list", "annotations"))
    except NDSError as error:
        assert "\\n" not in str(error)
        refused += 1
print(refused)
"""


@pytest.mark.slow
@pytest.mark.parametrize("compressed", [False, True])
def test_a_damaged_file_is_refused_or_read_and_never_ends_the_process(
    tmp_path: Path, compressed: bool
) -> None:
    path = tmp_path / "list.mat"
    rows = struct_array({"class": [1, 2.5, np.uint8(3)], "fname": ["a", "bcdefghij", "ä"]})
    content = {"labels": np.arange(3.0), "file_list": cells(["a", "b"]), "annotations": rows}
    savemat(path, content, do_compression=compressed)
    done = subprocess.run([sys.executable, "-c", FUZZ, str(path), "0"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 300


BAD = {
    "text": (b"hello", r"not a MATLAB 5 file"),
    "HDF5, as of MATLAB 7.3": (b"\x89HDF\r\n\x1a\n".ljust(600), r"not a MATLAB 5 file"),
    "no variable": (HEADER, r"has no variable 'labels'; it has none of the expected ones"),
    "nested": (nested(20), r"cells are nested more than 8 deep"),
    "thousand million cells": (
        HEADER + array(CELL, (1, 10**9), NUMBER, b"labels"),
        r"an array of 1 x 1000000000",
    ),
    "negative side": (HEADER + array(CELL, (-5, 3), NUMBER, b"labels"), r"an array of -5 x 3 entries"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_hostile_file_is_refused_before_scipy_reads_it(tmp_path: Path, case: str) -> None:
    content, message = BAD[case]
    path = tmp_path / "list.mat"
    path.write_bytes(content)
    with pytest.raises(NDSError, match=message):
        load_mat(path, ("labels",))


def test_scipy_alone_would_end_the_process_on_such_a_file(tmp_path: Path) -> None:
    """Why there is a check at all; where this fails, scipy has learnt it and ours can go."""
    content = NUMBER
    heads: list[bytes] = []
    size = len(content)
    for level in range(200_000):
        name = b"labels" if level == 199_999 else b""
        head = array(CELL, (1, 1), b"", name)
        head = struct.pack("<II", 14, len(head) - 8 + size) + head[8:]
        heads.append(head)
        size += len(head)
    path = tmp_path / "deep.mat"
    path.write_bytes(HEADER + b"".join(reversed(heads)) + content)
    code = f"from scipy.io import loadmat; loadmat({str(path)!r}, variable_names=['labels'])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode < 0
    with pytest.raises(NDSError, match="nested more than 8 deep"):
        load_mat(path, ("labels",))


def test_a_file_that_is_missing_or_a_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(NDSError, match=r"annotation file not found: .*no\.mat"):
        load_mat(tmp_path / "no.mat", ("labels",))
    with pytest.raises(NDSError, match="cannot read .*Is a directory"):
        load_mat(tmp_path, ("labels",))


def test_values_of_the_wrong_kind_are_told_with_their_place(tmp_path: Path) -> None:
    path = tmp_path / "list.mat"
    savemat(path, {"labels": np.array([1.0, 2.5, np.nan]), "names": cells(["a", 3])})
    found = load_mat(path, ("labels", "names"))
    with pytest.raises(NDSError, match=r"entry 2 of labels must be a whole number, got 2\.5"):
        whole_numbers(found["labels"], path, "labels")
    with pytest.raises(NDSError, match="entry 1 of labels must be a whole number, got nan"):
        whole_numbers(found["labels"][2:], path, "labels")
    with pytest.raises(NDSError, match="entry 2 of names must be text, got 3"):
        texts(found["names"], path, "names")


def test_a_file_of_another_kind_is_told_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / "list.mat"
    savemat(path, {"other": [1]})
    cut(path, path.stat().st_size)
    with pytest.raises(NDSError, match="no variable 'labels'"):
        load_mat(path, ("labels",))
