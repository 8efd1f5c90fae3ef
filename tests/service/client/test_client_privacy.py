"""Noise and rounding: what is asked for, the same for the same scores, and a guarantee that is true."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from nds_plugin.errors import NDSError
from nds_plugin.experts.scores import Scores, check_range
from nds_plugin.service.client.folders import Tokens, config_folder, secret
from nds_plugin.service.client.privacy import apply_privacy, parse_privacy, statement
from nds_plugin.service.client.search import SearchOptions, disclosure, make_request

KEY = b"k" * 32
Z = [0.25 + 0.005 * k for k in range(100)]


def _noisy(text: str, key: bytes = KEY, z: list[float] = Z) -> list[float]:
    return apply_privacy(z, parse_privacy(text), key)


def test_without_steps_the_scores_stay() -> None:
    assert _noisy("") == Z


@pytest.mark.parametrize("text", ["laplace:0.01", "gaussian:0.01", "laplace:0.1,round:2"])
def test_the_same_scores_get_the_same_noise_and_nothing_else_does(text: str) -> None:
    assert _noisy(text) == _noisy(text)
    assert _noisy(text) != _noisy(text, key=b"l" * 32)
    other = [*Z[:-1], Z[-1] + 1e-9]
    assert _noisy(text)[:5] != _noisy(text, z=other)[:5]


def test_noise_of_another_scale_or_on_rounded_scores_is_drawn_anew() -> None:
    noise = np.subtract(_noisy("laplace:0.01"), Z) / 0.01
    # What differs after the sixth digit, too: the same noise in two scales could be solved for z.
    other = np.subtract(_noisy("laplace:0.010000002"), Z) / 0.010000002
    assert np.abs(noise - other).max() > 1
    rounded = np.subtract(_noisy("round:2,laplace:0.01"), np.round(Z, 2)) / 0.01
    assert np.abs(noise - rounded).max() > 1


def test_rounding_after_the_noise_keeps_the_noise() -> None:
    assert _noisy("laplace:0.01,round:6") == pytest.approx(np.round(_noisy("laplace:0.01"), 6))


def test_rounding_rounds_and_comes_in_the_order_given() -> None:
    assert _noisy("round:1") == pytest.approx(np.round(Z, 1))
    assert all(value == round(value, 2) for value in _noisy("gaussian:0.1,round:2"))
    assert any(value != round(value, 2) for value in _noisy("round:2,gaussian:0.1"))


@pytest.mark.parametrize(("text", "spread"), [("laplace:0.02", 0.02 * math.sqrt(2)), ("gaussian:0.02", 0.02)])
def test_the_noise_has_the_spread_that_was_asked_for(text: str, spread: float) -> None:
    noise = np.asarray(apply_privacy([0.5] * 20_000, parse_privacy(text), KEY)) - 0.5
    assert noise.mean() == pytest.approx(0, abs=6 * spread / math.sqrt(20_000))
    assert noise.std() == pytest.approx(spread, rel=0.05)


def test_the_laplace_guarantee_holds_for_the_worst_exchange_of_one_image() -> None:
    # One image of n moves every accuracy by 1/n: the density changes by exp(1/(n b)) per score at most.
    n, b, k = 200, 0.05, 8
    assert f"epsilon {k / n / b:.3g}" in statement(
        parse_privacy(f"laplace:{b}"), k, n, "accuracy", "rotation"
    )
    assert f"epsilon {2 * k / n / b:.3g}" in statement(
        parse_privacy(f"laplace:{b}"), k, n, "relative_accuracy", "rotation"
    )
    # 0.2499 and 0.2509, 1/n apart, are 0.1 apart after round:1.
    rounded = parse_privacy(f"round:1,laplace:{b}")
    assert f"epsilon {k * (1 / n + 0.1) / b:.3g}" in statement(rounded, k, n, "accuracy", "rotation")
    assert statement(parse_privacy(f"laplace:{b},round:1"), k, n, "accuracy", "rotation") == statement(
        parse_privacy(f"laplace:{b}"), k, n, "accuracy", "rotation"
    )


def test_the_gaussian_guarantee_is_given_only_where_its_theorem_holds() -> None:
    assert "epsilon 0.969, delta 1e-05" in statement(
        parse_privacy("gaussian:0.05"), 100, 1000, "accuracy", "rotation"
    )
    assert "too little noise for a guarantee" in statement(
        parse_privacy("gaussian:0.01"), 100, 1000, "accuracy", "rotation"
    )


def test_no_guarantee_is_made_up() -> None:
    assert "no guarantee" in statement(parse_privacy("round:2"), 8, 100, "accuracy", "rotation")
    assert "without a guarantee" in statement(
        parse_privacy("laplace:1"), 8, 100, "log_likelihood", "rotation"
    )
    assert "not known" in statement(parse_privacy("laplace:1"), 8, 0, "accuracy", "rotation")
    learns = statement(parse_privacy("laplace:1"), 8, 100, "accuracy", "supervised")
    assert "experts of the task supervised learn from your images" in learns
    assert "exact scores" in statement((), 8, 100, "accuracy", "rotation")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("blur:1", "unknown privacy step 'blur'.*gaussian, laplace, round"),
        ("laplace", r"expected an amount of more than 0, as in laplace:0\.01"),
        ("laplace:-1", "more than 0"),
        ("laplace:nan", "more than 0"),
        ("gaussian:inf", "more than 0"),
        ("round:1.5", "expected decimals from 0 to 12"),
        ("round:-1", "expected decimals"),
        ("round:x", "expected decimals"),
    ],
)
def test_steps_that_make_no_sense_are_refused(text: str, message: str) -> None:
    with pytest.raises(NDSError, match=message):
        parse_privacy(text)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path


def _scores() -> Scores:
    details = {"accuracy": {"z": [0.5, 0.75], "stderr": [0.1, 0.1]}, "computed": {"device": "cpu"}}
    return Scores([0, 1], [0.5, 0.75], [0.1, 0.1], "accuracy", 37, "e" * 64, "rotation", 3, details, "p" * 64)


def test_a_request_holds_the_scores_and_the_options_and_nothing_else(home: Path) -> None:
    body = make_request(_scores(), "e" * 64, SearchOptions(budget=10, title="t"))
    assert body == {
        "expert_set": "e" * 64, "scores": {"clusters": [0, 1], "z": [0.5, 0.75], "metric": "accuracy"}, "sources": None, "budget": 10,
        "share": None, "temperature": 0.1, "normalisation": "minmax", "selector": "nds", "seed": 0, "title": "t",
    }  # fmt: skip


def test_the_secret_of_the_noise_is_made_once_and_private(home: Path) -> None:
    options = SearchOptions(budget=10, privacy=parse_privacy("laplace:0.1"))
    first, second = (make_request(_scores(), "e" * 64, options) for _ in range(2))
    assert first == second
    assert first["scores"]["z"] != [0.5, 0.75]
    file = config_folder() / "privacy.secret"
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_text("00")
    with pytest.raises(NDSError, match="expected 32 bytes in hexadecimal, got 1"):
        secret("privacy.secret")


@pytest.mark.parametrize(
    ("metric", "cut"), [("accuracy", {0.0, 1.0}), ("log_likelihood", {0.0}), ("relative_accuracy", set())]
)
def test_noise_leaves_no_score_that_its_metric_cannot_have(home: Path, metric: str, cut: set[float]) -> None:
    many = list(range(40))
    scores = dataclasses.replace(
        _scores(), clusters=many, z=[0.5] * 40, stderr=[0.1] * 40, metric=metric, details={}
    )
    options = SearchOptions(budget=10, privacy=parse_privacy("gaussian:100"))
    z = make_request(scores, "e" * 64, options)["scores"]["z"]
    check_range(z, metric)
    assert {value for value in z if z.count(value) > 1} == cut


def test_a_uniform_search_sends_no_scores(home: Path) -> None:
    options = SearchOptions(budget=10, selector="uniform")
    body = make_request(_scores(), "e" * 64, options)
    assert body["scores"] is None
    assert "scores       none" in disclosure(body, _scores(), options, "http://127.0.0.1")
    with pytest.raises(NDSError, match="selector 'nds' needs scores"):
        make_request(None, "e" * 64, SearchOptions(budget=10))


def test_exact_accuracies_come_with_the_warning_that_they_may_tell_the_number_of_images(home: Path) -> None:
    for text, warned in (("", True), ("laplace:0.1", False)):
        options = SearchOptions(budget=10, privacy=parse_privacy(text))
        shown = disclosure(make_request(_scores(), "e" * 64, options), _scores(), options, "http://127.0.0.1")
        assert ("multiples of 1/(4n)" in shown) is warned


@pytest.mark.parametrize(
    ("task", "metric", "privacy", "told"),
    [
        ("rotation", "accuracy", "", "multiples of 1/(4n)"),
        ("supervised", "accuracy", "", "multiples of 1/n,"),
        ("rotation", "log_likelihood", "", "For a guarantee score with --metric accuracy"),
        ("supervised", "accuracy", "laplace:0.1", "experts of the task supervised learn from your images"),
        ("rotation", "accuracy", "laplace:0.1", "differentially private for one image of 37"),
    ],
)
def test_what_is_said_before_sending_fits_the_task(
    task: str, metric: str, privacy: str, told: str, home: Path
) -> None:
    z = [-0.5, -0.25] if metric == "log_likelihood" else [0.5, 0.75]
    scores = dataclasses.replace(_scores(), task=task, metric=metric, z=z, details={})
    options = SearchOptions(budget=10, privacy=parse_privacy(privacy))
    shown = disclosure(make_request(scores, "e" * 64, options), scores, options, "http://127.0.0.1")
    assert told in shown
    assert ("For a guarantee" in shown) is ("For a guarantee" in told)


def test_a_supervised_set_is_promised_no_guarantee_by_another_metric(home: Path) -> None:
    scores = dataclasses.replace(
        _scores(), task="supervised", metric="log_likelihood", z=[-0.5, -0.25], details={}
    )
    options = SearchOptions(budget=10)
    shown = disclosure(make_request(scores, "e" * 64, options), scores, options, "http://127.0.0.1")
    assert "guarantee" not in shown


def test_tokens_are_asked_for_once_and_kept_private(home: Path) -> None:
    tokens = Tokens()
    assert tokens.get("http://a") is None
    assert tokens.get_or_ask("http://a", lambda: "first") == "first"
    assert tokens.get_or_ask("http://a", lambda: "second") == "first"
    assert tokens.get_or_ask("http://b", lambda: "second") == "second"
    assert (home / "nds_plugin" / "tokens.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', "\x00"])
def test_a_damaged_file_of_tokens_is_named_and_not_overwritten(text: str, home: Path) -> None:
    path = home / "nds_plugin" / "tokens.json"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(NDSError, match=r"tokens\.json: .*mend or move it"):
        Tokens().get_or_ask("http://a", lambda: "new")
    assert path.read_text() == text
