"""The main job in MMDetection, end to end on the tiny domains, and its laws beside Detectron2's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmengine", reason="MMDetection is not installed (make install)")

from mm_jobs import own_files, write_config

from nds_plugin.commands import train_mm
from nds_plugin.engine.processes import OneProcess
from nds_plugin.errors import NDSError
from nds_plugin.files.artifacts import read_header, read_json
from nds_plugin.files.checkpoints import read_checkpoint
from nds_plugin.job import taking_turns
from nds_plugin.job.results import KIND as RESULTS_KIND
from nds_plugin.job.selection_summary import Timings
from nds_plugin.job.training_folder import FINAL, FINISHED, KIND
from nds_plugin.mm.config.loading import load_config
from nds_plugin.mm.job.host import MMHost
from nds_plugin.mm.job.main_job import MainJob
from nds_plugin.mm.job.stage_configs import finetune_config
from nds_plugin.mm.job.stages import train
from nds_plugin.report.runs import write_runs_report

ROOT = Path(__file__).resolve().parents[3]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning"),
]


def job(config: Path, run: Path, **options: object) -> MainJob:
    return MainJob(load_config(str(config), {f"nds.{k}": v for k, v in options.items()}, str(run)))


@pytest.fixture(scope="module")
def config(tiny_datasets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("mm") / "tiny.py", tiny_datasets)


@pytest.fixture(scope="module")
def finished(config: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[MainJob, dict]:
    """A job by the experts' scores, with the pretrained detector tested, too."""
    main_job = job(config, tmp_path_factory.mktemp("run"), selector="nds", evaluate_pretrained=True)
    return main_job, main_job.run()


def test_a_job_leaves_results_with_selection_transfer_and_versions(finished: tuple[MainJob, dict]) -> None:
    main_job, document = finished
    assert document["selector"] == "nds"
    assert document["test"] == "tiny_city_val"
    assert document["selection"]["images"] == 24
    assert len(document["selection"]["z"]) == 2
    assert document["summary"]["AP_bb"] is not None
    assert document["summary"]["AP"] is not None
    assert document["versions"]["mmdet"]
    assert document["versions"]["mmengine"]
    assert set(document["times"]) >= {"pretrain", "finetune", "evaluate", "evaluate_pretrained"}
    assert document["pretrained"]["classes"]
    kept = {name.split(".")[0] for name in document["transfer"]["kept"]}
    assert {"backbone", "neck", "rpn_head"} <= kept
    assert any("fc_cls" in name for name in document["transfer"]["mapped"])
    shared = [match for match in document["transfer"]["classes"] if match["source"]]
    assert shared
    json.loads((main_job.job.work_dir / "results.json").read_text(), parse_constant=pytest.fail)


def test_each_training_has_its_scalars_in_its_own_folder(finished: tuple[MainJob, dict]) -> None:
    run = finished[0].job.work_dir
    for stage in ("pretrain", "finetune"):
        (scalars,) = (run / stage).rglob("scalars.json")
        assert json.loads(scalars.read_text().splitlines()[-1])["step"] == 4


def test_a_second_job_in_the_same_folder_is_refused(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taking_turns, "PATIENCE", 0.3)
    with taking_turns.only_job_in(tmp_path, OneProcess()), pytest.raises(NDSError, match="another job runs"):
        train_mm.main([str(config), "--work-dir", str(tmp_path)])


def test_the_report_of_a_job_is_made_as_in_detectron2(finished: tuple[MainJob, dict]) -> None:
    main_job, document = finished
    page = write_runs_report({"nds": document}, main_job.job.work_dir / "report.html").read_text()
    assert "tiny_city_val" in page
    assert "Scores and weights" in page


def test_a_second_start_keeps_everything(finished: tuple[MainJob, dict], config: Path) -> None:
    main_job, document = finished
    folder = main_job.job.work_dir
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.suffix in (".pth", ".parquet", ".json")}
    again = job(config, folder, selector="nds", evaluate_pretrained=True).run()
    assert again["summary"] == document["summary"]
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_select_only_shows_the_draw_of_the_whole_job_and_trains_nothing(
    finished: tuple[MainJob, dict], config: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    main_job, document = finished
    options = ["--cfg-options", "nds.selector=nds", f"nds.work_dir={main_job.job.artefacts}"]
    with caplog.at_level("INFO", logger="nds_plugin"):
        train_mm.main([str(config), "--select-only", "--work-dir", str(tmp_path), *options])
    assert Path(document["selection"]["path"]).name in caplog.text
    assert "The clusters that scored best" in (tmp_path / "selection.html").read_text()
    assert not {"pretrain", "finetune", "results.json", "report.html"} & {p.name for p in tmp_path.iterdir()}


def test_fine_tuning_starts_from_the_pretrained_weights_by_class_name(
    finished: tuple[MainJob, dict], config: Path
) -> None:
    main_job, document = finished
    from mmdet.registry import MODELS

    from nds_plugin.mm.job.stages import transfer_into

    work_dir = main_job.job.work_dir
    pretrained = read_checkpoint(work_dir / "pretrain" / FINAL)
    target = main_job.host.dataset("tiny_city_train").classes()
    source = pretrained["meta"]["dataset_meta"]["classes"]
    model = MODELS.build(finetune_config(main_job.job, target).model)
    transfer_into(
        work_dir / "finetune",
        work_dir / "pretrain" / FINAL,
        target,
        masks=True,
        loose=False,
        require_shared=False,
    )(model)
    state, old = model.state_dict(), pretrained["state_dict"]
    assert torch.equal(state["backbone.conv1.weight"], old["backbone.conv1.weight"])
    for match in document["transfer"]["classes"]:
        if match["source"]:
            new, there = target.index(match["target"]), source.index(match["source"])
            for name, rows in (
                ("bbox_head.fc_cls", 1),
                ("bbox_head.fc_reg", 4),
                ("mask_head.conv_logits", 1),
            ):
                mine = state[f"roi_head.{name}.weight"][new * rows : (new + 1) * rows]
                assert torch.equal(mine, old[f"roi_head.{name}.weight"][there * rows : (there + 1) * rows])
    assert torch.equal(state["roi_head.bbox_head.fc_cls.bias"][-1], old["roi_head.bbox_head.fc_cls.bias"][-1])


def test_the_weights_of_a_training_with_an_average_are_the_averaged_ones(
    config: Path, tmp_path: Path
) -> None:
    options = {"nds.selector": "none", "custom_hooks": [{"type": "EMAHook"}], "nds.target.num_images": 4}
    main_job = MainJob(load_config(str(config), options, str(tmp_path)))
    cfg = finetune_config(main_job.job, main_job.host.dataset("tiny_city_train").classes())
    folder = Path(cfg.work_dir)
    train(cfg, "key", ("one",), launcher="none", resume=False, timed=Timings())
    final, last = read_checkpoint(folder / FINAL), read_checkpoint(folder / "iter_4.pth")
    name = "backbone.conv1.weight"
    assert torch.equal(final["state_dict"][name], last["state_dict"][name])
    assert not torch.equal(final["state_dict"][name], last["ema_state_dict"][f"module.{name}"])


def test_an_interval_of_epochs_is_not_taken_for_one_of_iterations(config: Path, tmp_path: Path) -> None:
    for hook, interval in (
        ({"type": "CheckpointHook", "interval": 1}, 1000),
        ({"type": "CheckpointHook", "interval": 7, "by_epoch": False}, 7),
        ({"interval": 3}, 3),
    ):
        found = load_config(
            str(config), {"default_hooks.checkpoint": {**hook, "_delete_": True}}, str(tmp_path)
        )
        assert finetune_config(found, ["one"]).default_hooks.checkpoint.interval == interval


def test_an_interrupted_pretraining_goes_on_to_the_weights_of_the_unbroken_one(
    finished: tuple[MainJob, dict], config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = read_checkpoint(finished[0].job.work_dir / "pretrain" / FINAL)["state_dict"]
    from nds_plugin.mm.train.loop import NDSIterBasedTrainLoop

    class StopError(Exception):
        pass

    stock = NDSIterBasedTrainLoop.run_iter

    def stopping(self, batch) -> None:  # type: ignore[no-untyped-def]
        if self._iter == 3:
            raise StopError
        stock(self, batch)

    monkeypatch.setattr(NDSIterBasedTrainLoop, "run_iter", stopping)
    with pytest.raises(StopError):
        job(config, tmp_path, selector="nds").run()
    monkeypatch.undo()
    job(config, tmp_path, selector="nds").run()
    resumed = read_checkpoint(tmp_path / "pretrain" / FINAL)["state_dict"]
    assert resumed.keys() == unbroken.keys()
    assert all(torch.equal(resumed[name], unbroken[name]) for name in unbroken)


def test_a_job_without_pretraining_fine_tunes_from_the_models_own_initialisation(
    config: Path, tmp_path: Path
) -> None:
    document = job(config, tmp_path, selector="none").run()
    assert document["selection"] is None
    assert document["transfer"] is None
    assert not (tmp_path / "pretrain").exists()
    assert (tmp_path / "finetune" / FINAL).is_file()


def test_jobs_that_share_the_folder_of_artefacts_train_a_pretraining_once(
    config: Path, tmp_path: Path
) -> None:
    options = {"work_dir": str(tmp_path / "nds")}
    job(config, tmp_path / "first", **options).run()
    job(config, tmp_path / "second", **options).run()
    assert "taken_from" in read_json(tmp_path / "second/pretrain" / FINISHED, KIND)


def test_both_hosts_make_the_same_artefacts_and_take_each_others(
    finished: tuple[MainJob, dict], tiny_datasets: Path, tmp_path: Path
) -> None:
    from detectron2_of_mm_job import detectron_steps

    main_job, document = finished
    ours = Path(document["selection"]["path"])
    theirs = detectron_steps(main_job.job.artefacts, tmp_path / "d2").run()
    assert theirs.path.name == ours.name
    assert theirs.path.parent == main_job.job.artefacts, "nothing was made anew"
    anew = detectron_steps(tmp_path / "anew", tmp_path / "d2").run()
    assert anew.key == str(read_header(ours, "selection")["key"])
    assert anew.path.read_bytes() == ours.read_bytes()


def test_a_selection_that_detectron2_made_is_trained_on(
    config: Path, tiny_datasets: Path, tmp_path: Path
) -> None:
    from detectron2_of_mm_job import detectron_steps

    made = detectron_steps(tmp_path / "nds", tmp_path / "d2").run()
    stamp = made.path.stat().st_mtime_ns
    main_job = job(config, tmp_path / "run", selector="nds", work_dir=str(tmp_path / "nds"))
    document = main_job.run()
    assert document["selection"]["path"] == str(made.path)
    assert made.path.stat().st_mtime_ns == stamp


def test_a_drawn_target_has_the_same_images_in_both_hosts(tiny_datasets: Path) -> None:
    from nds_plugin.d2.data.host import DetectronHost
    from nds_plugin.d2.train.stages import target_subset

    host = MMHost(own_files(tiny_datasets))
    name = host.subset("tiny_city_train", 8, 3)
    assert target_subset("tiny_city_train", 8, 3) == name
    assert host.dataset(name).index().hash == DetectronHost().dataset(name).index().hash


def test_an_unknown_dataset_is_refused_before_anything_is_read(config: Path, tmp_path: Path) -> None:
    with pytest.raises(NDSError, match="unknown dataset 'tiny_cty_train'. Did you mean 'tiny_city_train'"):
        job(config, tmp_path, **{"target.train": ["tiny_cty_train"]})
    with pytest.raises(NDSError, match="unknown dataset 'tiny_rom_train'. Did you mean 'tiny_room_train'"):
        job(config, tmp_path, **{"selector": "snds", "snds.datasets": ["tiny_rom_train"]})


def test_two_processes_that_a_launcher_starts_train_together_and_one_does_not_take_their_weights(
    config: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
    ]
    command += [
        str(ROOT / "tools/train_mmdet.py"),
        str(config),
        "--launcher",
        "pytorch",
        "--work-dir",
        str(run),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    assert read_json(run / "results.json", RESULTS_KIND)["summary"]["AP_bb"] is not None
    theirs = read_json(run / "pretrain" / FINISHED, KIND)["key"]
    job(config, run).run()  # half as many images an iteration: another training
    assert read_json(run / "pretrain" / FINISHED, KIND)["key"] != theirs
