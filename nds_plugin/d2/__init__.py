"""The Detectron2 side of the plugin. Importing it registers datasets, selections, heads and backbones."""

from nds_plugin.d2 import quiet_import, roi_heads, thin_resnet  # noqa: F401  (the first one first; register on import)
from nds_plugin.d2.config import add_nds_config, load_config
from nds_plugin.d2.known_datasets import register_all
from nds_plugin.d2.loader import TRAIN_SAMPLERS, build_nds_train_loader
from nds_plugin.d2.mapper import NDSDatasetMapper
from nds_plugin.d2.subset import register_selection, register_selections_folder
from nds_plugin.d2.trainer import NDSTrainer

__all__ = [
    "TRAIN_SAMPLERS",
    "NDSDatasetMapper",
    "NDSTrainer",
    "add_nds_config",
    "build_nds_train_loader",
    "load_config",
    "register_all",
    "register_selection",
    "register_selections_folder",
]

register_all()
register_selections_folder()
