"""Detectron2: importing this registers datasets, selections, heads and backbones.

May import: errors, extras, settings, files, engine, images, store, command_line, source, experts, datasets,
report, selection, pipeline, job.
"""

from nds_plugin.d2 import quiet_import  # noqa: F401  (first: it silences a warning of Detectron2's import)
from nds_plugin.d2.config.nodes import add_nds_config, load_config
from nds_plugin.d2.data.drawn_dataset import register_selection, register_selections_folder
from nds_plugin.d2.data.known_datasets import register_all
from nds_plugin.d2.data.loader import TRAIN_SAMPLERS, build_nds_train_loader
from nds_plugin.d2.data.mapper import NDSDatasetMapper
from nds_plugin.d2.model import roi_heads, thin_resnet, timm_backbone  # noqa: F401  (register on import)
from nds_plugin.d2.train.trainer import NDSTrainer

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
