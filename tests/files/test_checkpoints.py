"""Checkpoint files of torch: names of weights."""

from __future__ import annotations

from nds_plugin.files.checkpoints import without_module_prefix


def test_the_prefix_of_data_parallel_is_dropped_where_all_names_have_it() -> None:
    assert without_module_prefix({"module.a": 1, "module.module.b": 2}) == {"a": 1, "module.b": 2}
    assert without_module_prefix({"module.a": 1, "b": 2}) == {"module.a": 1, "b": 2}
    assert without_module_prefix({}) == {}
