"""Neural Data Server for Detectron2: choose the pretraining images that suit a target dataset."""

__version__ = "0.1.0"
