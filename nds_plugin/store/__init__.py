"""An annotation store: one Arrow file per dataset, memory-mapped, one row per image.

Built once from what a provider publishes, opened in no time ever after; its pages are shared by all
processes of a machine. ``writer`` builds it, ``reader`` opens it, ``view`` selects and joins.

May import: errors, settings, files, images.
"""

from nds_plugin.store.inputs import Inputs
from nds_plugin.store.opening import StoreSpec, open_or_build
from nds_plugin.store.reader import AnnotationStore
from nds_plugin.store.schema import Annotations, Images, Ragged
from nds_plugin.store.writer import StoreWriter

__all__ = [
    "AnnotationStore",
    "Annotations",
    "Images",
    "Inputs",
    "Ragged",
    "StoreSpec",
    "StoreWriter",
    "open_or_build",
]
