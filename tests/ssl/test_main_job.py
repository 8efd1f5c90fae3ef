"""The main job of self-supervision, end to end on a few images."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ssl_jobs import write_folders

from nds_plugin.commands import train_ssl
from nds_plugin.errors import NDSError
from nds_plugin.files.artifacts import read_json
from nds_plugin.files.checkpoints import read_checkpoint
from nds_plugin.job.training_folder import FINAL, LAST
from nds_plugin.ssl.config import load_config
from nds_plugin.ssl.main_job import MainJob
from nds_plugin.ssl.pretrain import DETECTRON2
from nds_plugin.ssl.train import Training

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folders(tmp_path_factory.mktemp("ssl"))


def run(config: Path, output: Path, *changes: str) -> dict:
    return MainJob(load_config(str(config), ["OUTPUT_DIR", str(output), *changes])).run()


@pytest.fixture(scope="module")
def finished(config: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    output = tmp_path_factory.mktemp("run")
    return output, run(config, output)


@pytest.fixture(scope="module")
def interrupted(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the same job, ended before the weights of its pretraining were written."""
    output = tmp_path_factory.mktemp("interrupted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "finish", lambda *_: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            run(config, output)
    return output


def weights(output: Path, stage: str = "pretrain") -> dict[str, torch.Tensor]:
    return read_checkpoint(output / stage / FINAL)["model"]


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(v, theirs[k]) for k, v in ours.items())


def times(output: Path) -> dict[Path, int]:
    kept = (".pth", ".parquet", ".json", ".npy")
    return {p: p.stat().st_mtime_ns for p in output.rglob("*") if p.suffix in kept}


def test_a_job_leaves_weights_and_the_accuracy_of_its_classifier(finished: tuple[Path, dict]) -> None:
    output, document = finished
    summary = document["summary"]
    assert summary["images"] == 6
    assert 0 <= summary["top1"] <= 100
    assert summary["mean_per_class"] == pytest.approx(np.mean(list(summary["per_class"].values())))
    assert list(summary["per_class"]) == ["ape", "bee", "cow"]
    assert document["selection"]["images"] == 12
    assert document["precision"] == {"pretrain": "fp32", "finetune": "fp32"}
    assert document["unreadable_images"] == 0
    assert {"pretrain", "finetune", "evaluate"} <= document["times"].keys()
    assert (output / "pretrain" / DETECTRON2).is_file()


def test_only_the_images_of_the_selection_are_decoded(finished: tuple[Path, dict]) -> None:
    output, _ = finished
    arrays = [np.load(path) for path in (output / "nds").glob("pixels-*.npy")]
    assert [array.shape for array in arrays] == [(12, 37, 37, 3)]


def test_a_second_start_keeps_everything(finished: tuple[Path, dict], config: Path) -> None:
    output, document = finished
    before = times(output)
    assert run(config, output)["summary"] == document["summary"]
    assert times(output) == before


def test_select_only_shows_the_draw_of_the_whole_job_and_trains_nothing(
    finished: tuple[Path, dict], config: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    work = ["NDS.WORK_DIR", str(finished[0] / "nds")]
    with caplog.at_level("INFO", logger="nds_plugin"):
        train_ssl.main(["--select-only", str(config), "OUTPUT_DIR", str(tmp_path), *work])
    assert Path(finished[1]["selection"]["path"]).name in caplog.text
    assert "Where the draw comes from" in (tmp_path / "selection.html").read_text()
    assert not {"pretrain", "finetune", "results.json", "report.html"} & {p.name for p in tmp_path.iterdir()}


def test_another_learning_rate_of_the_classifier_keeps_the_pretraining(
    finished: tuple[Path, dict], config: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    shutil.copytree(finished[0], output)
    before = times(output / "pretrain")
    run(config, output, "FINETUNE.BASE_LR", "0.5")
    assert times(output / "pretrain") == before
    assert (output / "finetune.old1").is_dir()


KILLED_IN_A_CHECKPOINT = """
import os, sys, torch
torch.set_num_threads(1)
from nds_plugin.files.artifacts import atomic_write
from nds_plugin.ssl import checkpoints
from nds_plugin.ssl.config import load_config
from nds_plugin.ssl.main_job import MainJob
whole = checkpoints.write_checkpoint

def write(path, data):
    if path.name == "model_0000004.pth":
        with atomic_write(path) as file:
            file.write(b"half of it")
            file.flush()
            os.kill(os.getpid(), 9)
    whole(path, data)

checkpoints.write_checkpoint = write
MainJob(load_config(sys.argv[1], ["OUTPUT_DIR", sys.argv[2]])).run()
"""


def test_an_interrupted_pretraining_ends_as_the_unbroken_one(
    finished: tuple[Path, dict], config: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    command = [sys.executable, "-c", KILLED_IN_A_CHECKPOINT, str(config), str(output)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr[-2000:]
    assert (output / "pretrain" / LAST).read_text() == "model_0000002.pth"
    document = run(config, output)
    assert same(weights(output), weights(finished[0]))
    assert same(weights(output, "finetune"), weights(finished[0], "finetune"))
    assert document["summary"] == finished[1]["summary"]


def test_a_checkpoint_holds_queue_and_key_network(interrupted: Path) -> None:
    folder = interrupted / "pretrain"
    state = read_checkpoint(folder / (folder / LAST).read_text())
    assert state["iteration"] == 4
    assert state["model"]["queue"].shape == (16, 8)
    assert int(state["model"]["place"]) == 0  # four batches of 8 go twice round a queue of 16
    assert not torch.equal(state["model"]["key.conv1.weight"], state["model"]["query.conv1.weight"])


def test_two_processes_end_where_one_does_and_go_on_from_its_checkpoint(
    finished: tuple[Path, dict], interrupted: Path, config: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    shutil.copytree(interrupted, output)
    command = [sys.executable, str(ROOT / "tools/train_ssl.py"), "--config", str(config), "--num-gpus", "2"]
    command += ["OUTPUT_DIR", str(output)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "going on after iteration 4" in done.stderr
    assert done.stderr.count("PRETRAIN.QUEUE 16 is larger than the selection") == 1
    for name, value in weights(finished[0]).items():
        assert torch.allclose(weights(output)[name].float(), value.float(), rtol=1e-3, atol=1e-5), name
    found = read_json(output / "results.json", "results")["summary"]
    assert found["images"] == 6
    assert "top-1 per class" in (output / "report.html").read_text(encoding="utf-8")


def test_rotnet_and_no_pretraining_and_linear_evaluation_run(config: Path, tmp_path: Path) -> None:
    rotnet = run(
        config, tmp_path / "rotnet", "PRETRAIN.METHOD", "rotnet", "FINETUNE.LINEAR", "True", "SEED", "7"
    )
    assert rotnet["method"] == "rotnet"
    assert (rotnet["seed"], rotnet["training_seed"]) == (0, 7)
    trained, kept = weights(tmp_path / "rotnet", "finetune"), weights(tmp_path / "rotnet")
    assert all(torch.equal(trained[name], value) for name, value in kept.items())
    none = run(config, tmp_path / "none", "NDS.SELECTOR", "none")
    assert none["selection"] is None
    assert not (tmp_path / "none/pretrain").exists()


def test_jobs_that_share_a_folder_share_the_pretraining(config: Path, tmp_path: Path) -> None:
    shared = ["NDS.WORK_DIR", str(tmp_path / "nds")]
    run(config, tmp_path / "a", *shared)
    run(config, tmp_path / "b", "FINETUNE.ITERATIONS", "3", *shared)
    assert read_json(tmp_path / "b/pretrain/finished.json", "training")["taken_from"]
    times = {name: read_json(tmp_path / name / "results.json", "results")["times"] for name in ("a", "b")}
    assert "pretrain" in times["a"]
    assert times["b"].keys() & {"pretrain", "finetune"} == {"finetune"}  # the other was another job's
    assert (tmp_path / "a/pretrain" / FINAL).samefile(tmp_path / "b/pretrain" / FINAL)


def test_a_job_starts_from_weights_and_refuses_those_of_another_depth(
    finished: tuple[Path, dict], config: Path, tmp_path: Path
) -> None:
    file = str(finished[0] / "pretrain" / FINAL)
    given = ["NDS.SELECTOR", "none", "MODEL.WEIGHTS", file]
    found = run(config, tmp_path / "run", *given, "FINETUNE.ITERATIONS", "1", "FINETUNE.LINEAR", "True")
    assert found["summary"]["images"] == 6
    for change, told in (
        ("MODEL.DEPTH 50", "MODEL.DEPTH"),
        ("MODEL.WIDTH 8", "MODEL.WIDTH 4, here it is 8"),
        ("MODEL.STEM small", "MODEL.STEM half, here it is small"),
    ):
        with pytest.raises(NDSError, match=told):
            run(config, tmp_path / "other", *given, *change.split())


def test_a_detector_starts_from_the_weights(finished: tuple[Path, dict]) -> None:
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    from detectron2.modeling import build_model

    from nds_plugin.d2.config.nodes import load_config as detectron2_config
    from nds_plugin.d2.model.initial_weights import read_initial_weights

    cfg = detectron2_config("nds_sample_from_ssl.yaml", [])
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 4
    network = build_model(cfg).state_dict()
    found = read_initial_weights(str(finished[0] / "pretrain" / DETECTRON2), network)
    assert found.found == found.expected
    kept = weights(finished[0])
    stem = found.state["backbone.bottom_up.stem.conv1.weight"]
    assert torch.equal(stem[:, :, 2:5, 2:5], kept["conv1.weight"])
    assert stem.count_nonzero() == kept["conv1.weight"].count_nonzero()  # zeros around it
    ours = "backbone.bottom_up.res4.0.shortcut.norm.running_var"
    assert torch.equal(found.state[ours], kept["layer3.0.downsample.1.running_var"])


def test_the_commands_of_the_docs_give_the_detector_the_network_that_it_has() -> None:
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    from nds_plugin.d2.config.nodes import load_config as detectron2_config

    part = (ROOT / "docs/ssl.md").read_text().split("## A detector that starts from the weights")[1]
    ssl, detector = (line.split()[1:] for line in part.splitlines() if line.startswith("    nds train"))
    assert ssl[0] == "train-ssl"
    assert detector[:2] == ["train", "--config"]
    job, cfg = load_config(ssl[1], ssl[2:]), detectron2_config(detector[2], detector[3:])
    assert job.network.depth == cfg.MODEL.RESNETS.DEPTH
    assert cfg.MODEL.RESNETS.RES2_OUT_CHANNELS == cfg.MODEL.RESNETS.STEM_OUT_CHANNELS == job.network.width
    assert Path(cfg.MODEL.WEIGHTS) == job.output / "pretrain" / DETECTRON2


def test_the_config_of_the_docs_is_one(tmp_path: Path) -> None:
    block = (ROOT / "docs/ssl.md").read_text().split("```yaml\n")[1].split("```")[0]
    (tmp_path / "own.yaml").write_text(block)
    job = load_config(str(tmp_path / "own.yaml"), ["FOLDERS.photos.FOLDER", "/data/others"])
    assert job.cfg.FOLDERS["photos"] == {"FOLDER": "/data/others"}
    assert job.nds.EXPERTS.KIND == "head"
    job.settings()
    assert job.pretrain.batch_size == 256  # of the base
