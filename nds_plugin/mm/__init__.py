"""MMDetection: importing this registers a sampler, datasets, a loop and hooks in MMEngine's registries.

May import: errors, extras, settings, files, engine, images, store, command_line, source, experts, datasets,
report, selection, pipeline, job.
"""

from nds_plugin.extras import needed_for

with needed_for("nds_plugin.mm"):
    from nds_plugin.mm.data.sampler import NDSInfiniteSampler
    from nds_plugin.mm.data.selection_dataset import NDSSelection
    from nds_plugin.mm.data.store_dataset import NDSStoreDataset
    from nds_plugin.mm.operators import require_mmdet, use_torchvision_operators
    from nds_plugin.mm.train.checkpoint_hook import NDSCheckpointHook
    from nds_plugin.mm.train.draw_hook import NDSDrawHook
    from nds_plugin.mm.train.loop import NDSIterBasedTrainLoop
    from nds_plugin.mm.train.rescore_hook import NDSRescoreHook

__all__ = [
    "NDSCheckpointHook",
    "NDSDrawHook",
    "NDSInfiniteSampler",
    "NDSIterBasedTrainLoop",
    "NDSRescoreHook",
    "NDSSelection",
    "NDSStoreDataset",
    "require_mmdet",
    "use_torchvision_operators",
]
