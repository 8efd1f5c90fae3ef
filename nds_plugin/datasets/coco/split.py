"""COCO json files as sources: the index of their images."""

from __future__ import annotations

import os

from nds_plugin.datasets.coco.store import open_coco
from nds_plugin.datasets.store_index import index_store
from nds_plugin.source.index import SourceIndex
from nds_plugin.source.source_names import coco_name


def index_coco(
    json_file: str | os.PathLike[str], image_root: str | os.PathLike[str], source: str | None = None
) -> SourceIndex:
    """Index the images of a COCO file, in ascending order of their ids.

    Classes are in ascending order of the category ids, as in Detectron2. A file without annotations
    (COCO's ``image_info_*``) gives images without a label. The file's store is built on first use
    (:mod:`nds_plugin.datasets.coco.store`).

    Args:
        source: name of the source; default :func:`coco_name` of the file's path.
    """
    store = open_coco(json_file, require=("images",))
    return index_store(store, image_root, source or coco_name(json_file))
