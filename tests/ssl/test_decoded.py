"""Photographs decoded once: kept while they are whole, and told where one cannot be read."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ssl_jobs import write_folders, write_images

from nds_plugin.engine.processes import OneProcess
from nds_plugin.errors import NDSError
from nds_plugin.job.selection_summary import Timings
from nds_plugin.pipeline.work_folder import WorkFolder
from nds_plugin.ssl.config import load_config
from nds_plugin.ssl.main_job import MainJob
from nds_plugin.ssl.pretrain import decoded


def decode(root: Path, max_unreadable: float = 0.0) -> Path:
    """The array of the photographs below ``root``."""
    names = [str(path) for path in sorted((root / "photos").glob("*.png"))]
    work = WorkFolder(root / "work", OneProcess(), Timings())
    return decoded(work, "pixels", ["x"], names, 16, "photos", max_unreadable).array


def damage(path: Path) -> bytes:
    """Cut a photograph short; what it was."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return content


def test_pixels_are_decoded_again_where_their_array_is_gone_or_of_another_shape(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 4, 0)
    path = decode(tmp_path)
    whole = np.load(path)
    assert whole.shape == (4, 18, 18, 3)
    written = path.stat().st_mtime_ns
    decode(tmp_path)
    assert path.stat().st_mtime_ns == written
    path.unlink()
    assert np.array_equal(np.load(decode(tmp_path)), whole)
    path.write_bytes(path.read_bytes()[:-100])
    assert np.array_equal(np.load(decode(tmp_path)), whole)
    np.save(path, whole[:3])
    assert np.array_equal(np.load(decode(tmp_path)), whole)


def test_photographs_of_the_same_names_and_another_size_in_bytes_are_others(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 4, 0)
    first = decode(tmp_path)
    before = np.load(first)
    other = tmp_path / "photos/02.png"
    Image.open(other).transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(other, compress_level=0)
    second = decode(tmp_path)
    assert second != first
    assert np.array_equal(np.load(first), before)  # which another job may be reading
    assert np.array_equal(np.load(second)[2], before[2][::-1])


def test_another_folder_of_the_same_names_is_pretrained_and_fine_tuned_on_anew(tmp_path: Path) -> None:
    config, output = write_folders(tmp_path / "data"), tmp_path / "run"
    words = ["OUTPUT_DIR", str(output), "PRETRAIN.ITERATIONS", "1", "FINETUNE.ITERATIONS", "1"]
    words += ["NDS.BUDGET.IMAGES", "30"]
    MainJob(load_config(str(config), words)).run()
    for folder, anew in (("source", ["finetune", "pretrain"]), ("target/ape", ["finetune"])):
        path = next((tmp_path / "data" / folder).glob("*.png"))
        Image.open(path).save(path, compress_level=0)
        MainJob(load_config(str(config), words)).run()
        assert sorted(path.stem for path in output.glob("*.old*")) == anew
        for path in output.glob("*.old*"):
            shutil.rmtree(path)


def test_how_many_may_be_unreadable_counts_at_each_start(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 4, 0)
    content = damage(tmp_path / "photos/02.png")
    with pytest.raises(NDSError, match="1 of 4 images cannot be read, and none may be missing"):
        decode(tmp_path)
    written = decode(tmp_path, 0.25).stat().st_mtime_ns
    with pytest.raises(
        NDSError, match=r"1 of 4 images cannot be read, more than .*MAX_UNREADABLE allows \(0.2\)"
    ):
        decode(tmp_path, 0.2)
    assert decode(tmp_path, 0.25).stat().st_mtime_ns == written
    (tmp_path / "photos/02.png").write_bytes(content)
    assert np.load(decode(tmp_path)).any(axis=(1, 2, 3)).all()  # none is black


def test_an_image_that_cannot_be_read_is_told_and_looked_at_again_at_the_next_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config, output = write_folders(tmp_path / "data"), tmp_path / "run"
    words = ["OUTPUT_DIR", str(output), "NDS.BUDGET.IMAGES", "30", "NDS.LOADER.MAX_UNREADABLE", "0.1"]
    words += ["PRETRAIN.ITERATIONS", "1", "FINETUNE.ITERATIONS", "1"]
    photo = tmp_path / "data/source/07.png"
    content = damage(photo)
    for _ in range(2):  # the second start keeps everything, and tells it all the same
        caplog.clear()
        assert MainJob(load_config(str(config), words)).run()["unreadable_images"] == 1
        told = [record.getMessage() for record in caplog.records if "selection cannot be read" in record.msg]
        assert len(told) == 1
        assert told[0].startswith("source: 1 of 30 images of the selection cannot be read")
        assert str(photo) in told[0]
    assert not (output / "pretrain.old1").exists()
    photo.write_bytes(content)
    assert MainJob(load_config(str(config), words)).run()["unreadable_images"] == 0
    assert (output / "pretrain.old1").is_dir()
    pixels = np.load(max((output / "nds").glob("pixels-*.npy"), key=lambda path: path.stat().st_mtime_ns))
    assert pixels.any(axis=(1, 2, 3)).all()  # none is black
