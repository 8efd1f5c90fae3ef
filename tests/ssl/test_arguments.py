"""The command line of the job: config, options and changes of keys in any order."""

from __future__ import annotations

import pytest

from nds_plugin.commands.train_ssl import parse_arguments, start_processes
from nds_plugin.errors import NDSError


@pytest.mark.parametrize(
    "line",
    [
        "x.yaml --num-gpus 8 SEED 1 MODEL.WIDTH -1",
        "x.yaml SEED 1 --num-gpus 8 MODEL.WIDTH -1",
        "x.yaml SEED --num-gpus 8 1 MODEL.WIDTH -1",
        "x.yaml SEED 1 MODEL.WIDTH -1 --num-gpus 8",
        "--num-gpus 8 x.yaml SEED 1 MODEL.WIDTH -1",
        "--config x.yaml --num-gpus 8 SEED 1 MODEL.WIDTH -1",
        "SEED 1 --config x.yaml MODEL.WIDTH -1 --num-gpus 8",
    ],
)
def test_options_may_stand_anywhere(line: str) -> None:
    args = parse_arguments(line.split())
    assert (args.config, args.num_gpus, args.resume) == ("x.yaml", 8, False)
    assert args.words == ["SEED", "1", "MODEL.WIDTH", "-1"]


def test_the_processes_that_are_started_get_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr("os.execv", lambda _, words: started.append(words))
    for flags in ([], ["--resume"], ["--select-only"], ["--resume", "--select-only"]):
        start_processes(parse_arguments(["x.yaml", *flags, "--num-gpus", "2", "SEED", "1"]))
        assert started[-1][-len(flags) - 4 :] == ["--config", "x.yaml", *flags, "SEED", "1"]


@pytest.mark.parametrize(
    "line", ["x.yaml --num-gps 8 SEED 1", "x.yaml SEED 1 --num-gps 8", "--num-gps 8 x.yaml"]
)
def test_an_option_that_there_is_not_is_named_with_the_nearest(line: str) -> None:
    with pytest.raises(NDSError, match=r"unrecognized arguments: --num-gps.*--num-gpus"):
        parse_arguments(line.split())


def test_a_line_without_a_config_is_refused() -> None:
    with pytest.raises(NDSError, match="name a config"):
        parse_arguments(["--num-gpus", "8"])
