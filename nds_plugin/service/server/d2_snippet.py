"""A Detectron2 config that trains on a search's images, and how to use it."""

from __future__ import annotations

from typing import Any

import yaml


def snippet(search_id: str, sources: list[str], result: dict[str, Any]) -> str:
    """The text of a yaml file to merge into one's own after ``add_nds_config``.

    Args:
        search_id: of the search; its Parquet manifest is the selection.
        sources: the sources that were chosen from, by their names as datasets.
        result: the search's result, for the comment.
    """
    document = {
        "DATASETS": {"TRAIN": sources},
        "DATALOADER": {"SAMPLER_TRAIN": "NDSTrainingSampler"},
        "NDS": {"SELECTION": f"nds-{search_id}.parquet"},
    }
    lines = [
        f"# Pretraining on the {result['images']} images of the search {search_id}.",
        "# NDS.SELECTION is its manifest as Parquet (format=parquet). DATASETS.TRAIN are the sources as datasets",
        "# registered in Detectron2 under the names that the service lists; images that were not selected need not",
        "# be there. Sources with boxes only want MODEL.ROI_HEADS.NAME: NDSROIHeads. Sources with different classes",
        "# are trained on as one dataset (with these heads), which unites the classes:",
        f"#   from nds_plugin.d2 import register_selection; register_selection('nds-{search_id}.parquet', 'nds_search')",
        "#   DATASETS.TRAIN ('nds_search',) and no NDS.SELECTION",
        "#   from nds_plugin.d2 import add_nds_config, build_nds_train_loader",
        "#   add_nds_config(cfg); cfg.merge_from_file('this file')",
        "#   Trainer.build_train_loader = staticmethod(build_nds_train_loader)",
    ]
    return "\n".join(lines) + "\n" + yaml.safe_dump(document, sort_keys=False)
