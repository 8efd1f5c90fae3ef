"""Errors: their codes, which stay, and the wording that many of them share."""

from __future__ import annotations

import pickle
import re

import pytest

import nds_plugin.datasets.public
import nds_plugin.images.reading
import nds_plugin.service.published.store  # noqa: F401  (for their kinds of errors)
from nds_plugin.command_line import users_mistake
from nds_plugin.errors import MissingFileError, NDSError, UnknownNameError, few, kinds, unknown_name
from nds_plugin.images.reading import ImageError

KINDS = [kind for kind in kinds(NDSError) if kind is not NDSError]


def test_every_kind_of_error_has_a_code_of_its_own() -> None:
    codes = [kind.__dict__.get("code", "") for kind in KINDS]
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", code) for code in codes), codes


def test_the_line_of_an_error_ends_in_its_code_and_one_without_a_kind_in_its_text() -> None:
    assert users_mistake(MissingFileError("a is missing.")) == "a is missing. [missing-file]"
    assert users_mistake(NDSError("a is wrong.")) == "a is wrong."
    assert users_mistake(ValueError("a")) is None


def test_an_error_keeps_its_code_between_processes_and_through_torchs_loader() -> None:
    from torch._utils import ExceptionWrapper

    assert pickle.loads(pickle.dumps(ImageError("a"))).code == "image"
    try:
        raise ImageError("a.jpg: cut short.")
    except ImageError:
        wrapped = ExceptionWrapper(where="in a worker")
    with pytest.raises(ImageError) as caught:
        wrapped.reraise()
    assert users_mistake(caught.value) == "a.jpg: cut short. [image]"


def test_an_unknown_name_is_told_with_the_nearest_and_all_known_ones() -> None:
    error = unknown_name("fruit", "aple", ["pear", "apple"])
    assert isinstance(error, UnknownNameError)
    assert str(error) == "unknown fruit 'aple'. Did you mean 'apple'? Known: apple, pear."
    assert str(unknown_name("fruit", "x", [])) == "unknown fruit 'x'. Known: none."


def test_of_many_known_names_the_line_has_the_nearest_and_says_what_lists_them_all() -> None:
    many = ["apple", "apricot", *(f"berry{i}" for i in range(100))]
    start = "unknown fruit 'aple'. Did you mean 'apple'?"
    assert str(unknown_name("fruit", "aple", many, "ls")) == f"{start} ls lists all 102."
    line = str(unknown_name("fruit", "aple", many))
    assert line.startswith(f"{start} Known, the nearest first: apple, apricot, ")
    assert line.endswith(", ... (102 in all).")
    assert len(line) < 150


def test_of_many_names_a_line_has_the_first_and_how_many_there_are() -> None:
    assert few([]) == "none"
    assert few("abcde") == "a, b, c, d, e"
    assert few(range(7)) == "0, 1, 2, 3, 4, ... (7 in all)"
    assert few(["a", "b", "c"], 2) == "a, b, ... (3 in all)"


def test_a_name_in_other_letters_is_the_nearest() -> None:
    error = unknown_name("setting", "k", ["kind", "K", "T"])
    assert "Did you mean 'K'" in str(error)
