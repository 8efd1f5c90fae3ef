"""Results of an earlier start serve again, with what they say of the present one."""

from __future__ import annotations

from pathlib import Path

from nds_plugin.files.artifacts import read_json
from nds_plugin.job.results import KIND, write_results
from nds_plugin.job.selection_summary import kept_results


def test_kept_results_say_the_config_that_they_are_kept_under(tmp_path: Path) -> None:
    """A table takes the row's config from them; the key says that the results do not depend on the difference."""
    path = tmp_path / "results.json"
    write_results(path, {}, "CHECKPOINT_PERIOD: 100", 0, {}, key="key")
    before = read_json(path, KIND)
    found = kept_results(path, None, "CHECKPOINT_PERIOD: 50")
    assert read_json(path, KIND) == found == {**before, "config": "CHECKPOINT_PERIOD: 50"}
    written = path.stat().st_mtime_ns
    kept_results(path, None, "CHECKPOINT_PERIOD: 50")
    assert path.stat().st_mtime_ns == written
