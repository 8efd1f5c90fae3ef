"""The host of the tools: files, folders and the paper's datasets, and where it is installed Detectron2's."""

from __future__ import annotations

from nds_plugin.extras import needed_for
from nds_plugin.pipeline.files_host import FilesHost
from nds_plugin.pipeline.host import NamedDataset


def files_host() -> FilesHost:
    """A host that asks Detectron2 for names that it does not know itself, and only then imports it."""
    return FilesHost(_registered)


def _registered(name: str) -> NamedDataset:
    with needed_for(
        f"dataset {name!r} is none of the paper's (nds datasets --list); one that is registered with Detectron2"
    ):
        from nds_plugin.d2.data.host import DetectronHost
    return DetectronHost().dataset(name)
