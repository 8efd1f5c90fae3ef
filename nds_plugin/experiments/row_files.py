"""The config of a row as a file, for a run by hand."""

from __future__ import annotations

from typing import Any

import yaml

from nds_plugin.experiments.rows import Row
from nds_plugin.files.installed import config_folder


def row_yaml(row: Row) -> str:
    """The config file of a row, to be kept anywhere: its base is named by the full path."""
    places = [config_folder(host) / row.base for host in ("detectron2", "ssl")]
    document: dict[str, Any] = {"_BASE_": str(next(path for path in places if path.is_file()).resolve())}
    for key, value in row.settings.items():
        *parents, leaf = key.split(".")
        place = document
        for parent in parents:
            place = place.setdefault(parent, {})
        place[leaf] = str(value) if isinstance(value, tuple) else value  # as yacs writes tuples
    return yaml.safe_dump(document, sort_keys=False)
