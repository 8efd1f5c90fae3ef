"""The annotations of a store as columns, for tests."""

from __future__ import annotations

from nds_plugin.datasets.coco.document import ObjectColumns, object_columns
from nds_plugin.store import AnnotationStore
from nds_plugin.store.view import StoreView


def objects_of(store: AnnotationStore) -> ObjectColumns:
    """All of them, grouped by image in the store's order."""
    return object_columns([StoreView.whole(store, "", "")])
