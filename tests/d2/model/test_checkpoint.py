"""Checkpoints: complete or absent, and a resume that survives whatever is left."""

from __future__ import annotations

import logging
import os
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine.train_loop import HookBase, SimpleTrainer
from fvcore.common.checkpoint import PeriodicCheckpointer
from torch import nn

from nds_plugin.d2.model.checkpoint import AtomicCheckpointer
from nds_plugin.errors import NDSError
from nds_plugin.files import temporary
from nds_plugin.files.checkpoints import read_checkpoint, why_broken, write_checkpoint

torch.set_num_threads(1)


def model_with(value: float) -> nn.Module:
    model = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64))
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.fill_(value)
    return model


def value_of(model: nn.Module) -> float:
    return float(next(model.parameters()).detach()[0, 0])


def save_three(folder: Path) -> None:
    for iteration in (9, 19, 29):
        checkpointer = AtomicCheckpointer(model_with(iteration), str(folder))
        checkpointer.save(f"model_{iteration:07d}", iteration=iteration)


def resume(folder: Path) -> tuple[float, dict]:
    model = model_with(-1)
    rest = AtomicCheckpointer(model, str(folder)).resume_or_load("", resume=True)
    return value_of(model), rest


def test_a_checkpoint_gives_back_model_extra_and_iteration(tmp_path):
    extra = {"thing_classes": ["car", "person"], "seed": 3}
    AtomicCheckpointer(model_with(5), str(tmp_path), extra=extra).save("model_0000004", iteration=4)
    value, rest = resume(tmp_path)
    assert value == 5
    assert rest["iteration"] == 4
    assert rest["extra"] == extra
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last_checkpoint", "model_0000004.pth"]


def test_files_load_in_the_stock_checkpointer_and_the_other_way_round(tmp_path):
    AtomicCheckpointer(model_with(5), str(tmp_path)).save("model_0000004")
    stock = model_with(0)
    DetectionCheckpointer(stock, str(tmp_path)).resume_or_load("", resume=True)
    assert value_of(stock) == 5
    DetectionCheckpointer(model_with(6), str(tmp_path)).save("model_0000009")
    assert resume(tmp_path)[0] == 6


def test_resume_takes_the_last_checkpoint_and_no_resume_the_given_weights(tmp_path):
    save_three(tmp_path)
    assert resume(tmp_path)[0] == 29
    model = model_with(-1)
    weights = str(tmp_path / "model_0000009.pth")
    rest = AtomicCheckpointer(model, str(tmp_path)).resume_or_load(weights, resume=False)
    assert value_of(model) == 9
    assert rest["iteration"] == 9
    empty = model_with(-1)
    assert AtomicCheckpointer(empty, str(tmp_path / "new")).resume_or_load("", resume=True) == {}
    assert value_of(empty) == -1


def break_file(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "flipped":
        middle = bytearray(content)
        middle[len(content) // 2] ^= 0xFF
        path.write_bytes(bytes(middle))
    else:
        path.write_bytes({"truncated": content[:-100], "empty": b"", "text": b"hello\n" * 99}[how])


@pytest.mark.parametrize("how", ["truncated", "empty", "text", "flipped", "missing"])
def test_a_broken_newest_checkpoint_falls_back_to_the_one_before_with_one_warning(tmp_path, how, caplog):
    save_three(tmp_path)
    break_file(tmp_path / "model_0000029.pth", how)
    assert why_broken(tmp_path / "model_0000029.pth")
    with caplog.at_level(logging.WARNING):
        value, rest = resume(tmp_path)
    assert (value, rest["iteration"]) == (19, 19)
    (warning,) = [r.getMessage() for r in caplog.records if "Resuming" in r.getMessage()]
    assert "model_0000019.pth" in warning
    assert "model_0000029.pth" in warning
    assert "\n" not in warning


def test_a_fallback_goes_on_until_one_is_whole(tmp_path):
    save_three(tmp_path)
    break_file(tmp_path / "model_0000029.pth", "truncated")
    break_file(tmp_path / "model_0000019.pth", "empty")
    assert resume(tmp_path)[0] == 9


def test_a_fallback_never_goes_beyond_the_tagged_iteration(tmp_path):
    save_three(tmp_path)
    (tmp_path / "last_checkpoint").write_text("model_0000019.pth")  # 29 is of an earlier run
    break_file(tmp_path / "model_0000019.pth", "truncated")
    assert resume(tmp_path)[0] == 9


def test_a_broken_final_checkpoint_falls_back_to_the_highest_iteration(tmp_path):
    save_three(tmp_path)
    AtomicCheckpointer(model_with(99), str(tmp_path)).save("model_final")
    os.utime(tmp_path / "model_0000009.pth")  # a copied folder has other times
    break_file(tmp_path / "model_final.pth", "truncated")
    assert resume(tmp_path)[0] == 29


def test_an_empty_tag_falls_back_to_the_newest(tmp_path):
    save_three(tmp_path)
    (tmp_path / "last_checkpoint").write_text("")
    assert resume(tmp_path)[0] == 29
    AtomicCheckpointer(model_with(99), str(tmp_path)).save("model_final")
    (tmp_path / "last_checkpoint").write_text("")
    assert resume(tmp_path)[0] == 99


def test_no_whole_checkpoint_is_an_error_and_not_a_silent_new_start(tmp_path):
    save_three(tmp_path)
    for path in tmp_path.glob("*.pth"):
        break_file(path, "truncated")
    with pytest.raises(
        NDSError, match=r"no whole checkpoint to resume at \(.*model_0000029.pth is not a whole"
    ) as e:
        resume(tmp_path)
    assert "\n" not in str(e.value)


def test_leftovers_of_killed_saves_go_at_the_first_save_and_nothing_else_does(tmp_path):
    kept = ["notes.tmp", ".hidden.tmp", "model_0000001.pth"]
    kernel = temporary._kernel()
    left = [f".{name}.nds-{kernel}-ab12_xyz.tmp" for name in ("model_0000009.pth", "last_checkpoint")]
    for name in (*left, *kept):
        (tmp_path / name).write_bytes(b"half")
    AtomicCheckpointer(model_with(1), str(tmp_path))  # an evaluation must not disturb a training run
    assert len(list(tmp_path.iterdir())) == 5
    AtomicCheckpointer(model_with(1), str(tmp_path)).save("model_0000019")
    assert {p.name for p in tmp_path.iterdir()} == {*kept, "model_0000019.pth", "last_checkpoint"}


def test_only_the_main_process_writes(tmp_path):
    AtomicCheckpointer(model_with(1), str(tmp_path), save_to_disk=False).save("model_0000009")
    assert not list(tmp_path.iterdir())


class Stateful:
    def __init__(self, state):
        self.state = state

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state


def test_numpy_values_are_saved_as_plain_ones(tmp_path):
    state = {"z": np.float64(0.5), np.int64(3): [np.arange(3), (np.bool_(True), None)], "rng": {"s": "PCG64"}}
    AtomicCheckpointer(model_with(1), str(tmp_path), hook=Stateful(state)).save("model_0000009")
    back = torch.load(tmp_path / "model_0000009.pth", weights_only=True)["hook"]
    assert back["z"] == 0.5
    assert back[3][0].tolist() == [0, 1, 2]
    assert back[3][1] == (True, None)


def test_a_state_that_would_need_unpickling_is_refused_by_name_before_anything_is_written(tmp_path):
    state = {"a": [1, {"rng": np.random.Generator(np.random.PCG64(0))}]}
    checkpointer = AtomicCheckpointer(model_with(1), str(tmp_path), hooks=Stateful(state))
    with pytest.raises(NDSError, match=r"state hooks.a\[1\].rng of a checkpoint is a Generator"):
        checkpointer.state()
    with pytest.raises(NDSError, match=r"state hooks.a\[1\].rng"):
        checkpointer.save("model_0000009")
    assert not list(tmp_path.iterdir())


def test_a_file_that_needs_unpickling_is_not_read(tmp_path):
    torch.save({"model": {}, "what": Stateful(1)}, tmp_path / "foreign.pth")
    with pytest.raises(NDSError, match=r"foreign.pth cannot be loaded as weights only"):
        read_checkpoint(tmp_path / "foreign.pth")
    with pytest.raises(NDSError, match=r"checkpoint not found: .*nowhere.pth"):
        read_checkpoint(tmp_path / "nowhere.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(NDSError, match=r"expected a checkpoint \(a dict\), got a list"):
        read_checkpoint(tmp_path / "list.pth")


def test_truncated_weights_given_by_hand_are_one_clear_line(tmp_path):
    save_three(tmp_path)
    break_file(tmp_path / "model_0000009.pth", "truncated")
    checkpointer = AtomicCheckpointer(model_with(1), str(tmp_path / "out"))
    with pytest.raises(
        NDSError, match=r"MODEL.WEIGHTS: .*model_0000009.pth cannot be read .*, or is cut short \(.*\): get"
    ) as e:
        checkpointer.resume_or_load(str(tmp_path / "model_0000009.pth"), resume=True)
    assert "\n" not in str(e.value)


def test_a_trainer_of_detectron2_resumes_with_optimizer_hooks_and_iteration(tmp_path):
    class Counter(HookBase):
        seen = 0

        def after_step(self):
            self.seen += 1

        def state_dict(self):
            return {"seen": self.seen}

        def load_state_dict(self, state):
            self.seen = state["seen"]

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 1)

        def forward(self, batch):
            return {"loss": self.layer(batch).square().mean()}

    def trainer():
        torch.manual_seed(0)
        model = Model()
        data = [torch.ones(4, 2)] * 10
        made = SimpleTrainer(model, data, torch.optim.SGD(model.parameters(), 0.1, momentum=0.9))
        made.register_hooks([Counter()])
        return made

    first = trainer()
    first.train(0, 3)
    AtomicCheckpointer(first.model, str(tmp_path), trainer=first).save("model_0000002", iteration=2)
    first.train(3, 6)
    second = trainer()
    rest = AtomicCheckpointer(second.model, str(tmp_path), trainer=second).resume_or_load("", resume=True)
    assert rest["iteration"] == 2
    second.train(3, 6)
    assert second._hooks[0].seen == 6
    for one, other in zip(first.model.parameters(), second.model.parameters()):
        assert torch.equal(one, other)


def test_the_periodic_checkpointer_of_fvcore_keeps_the_newest(tmp_path):
    model = model_with(1)
    periodic = PeriodicCheckpointer(AtomicCheckpointer(model, str(tmp_path)), 2, max_iter=9, max_to_keep=2)
    for iteration in range(9):
        periodic.step(iteration)
    assert sorted(p.name for p in tmp_path.glob("*.pth")) == [
        "model_0000005.pth",
        "model_0000007.pth",
        "model_final.pth",
    ]
    assert resume(tmp_path)[1]["iteration"] == 8


def write_limited(path: Path, limit: int) -> None:
    """Write a checkpoint of 16 MB while the system allows files of ``limit`` bytes only."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        write_checkpoint(path, {"value": torch.ones(4_000_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_one_clear_line_and_leaves_the_old_file(tmp_path):
    # A limit on the size of files fails the write in the middle, as a full disk does.
    path = tmp_path / "model_0000009.pth"
    write_checkpoint(path, {"value": torch.zeros(1000)})
    with pytest.raises(NDSError, match=r"disk full while writing .*model_0000009.pth: nothing was changed"):
        write_limited(path, 4_000_000)
    assert [p.name for p in tmp_path.iterdir()] == ["model_0000009.pth"]
    assert not read_checkpoint(path)["value"].any()
