"""For ``DETECTRON2_ENV_MODULE``: Detectron2 calls this when it is imported.

``DETECTRON2_ENV_MODULE=nds_plugin.d2.env python train_net.py ... DATASETS.TRAIN "('nds_mine',)"``
trains on a drawn subset with a script that knows nothing of this plugin.
"""


def setup_environment() -> None:
    """Register the plugin's datasets and the drawn subsets."""
    import nds_plugin.d2  # noqa: F401  (registers on import)
