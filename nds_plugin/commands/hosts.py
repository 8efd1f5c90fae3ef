"""The host of the tools: files, folders and the paper's datasets, and where it is installed Detectron2's."""

from __future__ import annotations

from nds_plugin.errors import NDSError
from nds_plugin.pipeline.files_host import FilesHost
from nds_plugin.pipeline.host import NamedDataset


def files_host() -> FilesHost:
    """A host that asks Detectron2 for names that it does not know itself, and only then imports it."""
    return FilesHost(_registered)


def _registered(name: str) -> NamedDataset:
    try:
        from nds_plugin.d2.data.host import DetectronHost
    except ModuleNotFoundError as error:
        raise NDSError(
            f"dataset {name!r} is none of the paper's (tools/prepare_datasets.py --check); registered ones need Detectron2 "
            f"({error})."
        ) from None
    return DetectronHost().dataset(name)
