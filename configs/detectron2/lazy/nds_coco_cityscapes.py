"""Pretrain Mask R-CNN R50-FPN on 23,000 images of COCO drawn for Cityscapes, as a LazyConfig.

Trains with Detectron2's own script; ``--resume`` goes on with the draw:

    python lazyconfig_train_net.py --config-file configs/detectron2/lazy/nds_coco_cityscapes.py --num-gpus 8

The subset is drawn first, from what Cityscapes' owner sends back (scores.json):

    nds draw --index index.parquet --partition partition.parquet \\
        --scores scores.json --images 23000 --name cityscapes_23k

Fine-tune from output/lazy_nds_cityscapes_23k/model_final.pth; class-specific rows go over by name with
``nds_plugin.job.transfer.transfer_checkpoint(model, path, target_classes, source_classes=COCO's)``.
At CPU size: tests/d2/test_hosts.py. Not yet run at full size by us.
"""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from detectron2.model_zoo import get_config
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler
from omegaconf import OmegaConf

from nds_plugin.d2 import NDSDatasetMapper, build_nds_train_loader
from nds_plugin.d2.data.drawn_dataset import drawn_label_spaces
from nds_plugin.d2.model.roi_heads import NDSFastRCNNOutputLayers, NDSROIHeads

dataloader = OmegaConf.create()
dataloader.train = L(build_nds_train_loader)(
    # The dataset that nds draw registered. A file drawn with --output instead:
    # dataset=["coco_2017_train"], selection="PATH.parquet".
    dataset="nds_cityscapes_23k",
    selection=None,
    mapper=L(NDSDatasetMapper)(
        is_train=True,
        augmentations=[
            L(T.ResizeShortestEdge)(
                short_edge_length=(640, 672, 704, 736, 768, 800), max_size=1333, sample_style="choice"
            ),
            L(T.RandomFlip)(horizontal=True),
        ],
        image_format="BGR",
        use_instance_mask=True,
    ),
    total_batch_size=16,
    num_workers=4,
    seed=0,
)
# No dataloader.test and no evaluator: this model knows the source's classes, not the target's.

model = get_config("common/models/mask_rcnn_fpn.py").model
# The standard heads, which also take boxes without masks (OpenImages), and sources that label different classes.
model.roi_heads._target_ = NDSROIHeads
model.roi_heads.box_predictor._target_ = NDSFastRCNNOutputLayers
model.roi_heads.box_predictor.label_spaces = L(drawn_label_spaces)(dataset="${dataloader.train.dataset}")
model.roi_heads.num_classes = 80  # as nds draw printed

optimizer = get_config("common/optim.py").SGD
optimizer.lr = 0.02

# Detectron2's 1x schedule is 90,000 iterations x 16 = 1.44 M images, 12.2 epochs of COCO's 118,287.
# The same 12.2 epochs of 23,000 images: 23,000 x 12.2 / 16 = 17,500 iterations, steps at 2/3 and 8/9.
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(values=[1.0, 0.1, 0.01], milestones=[11700, 15600, 17500]),
    warmup_length=1000 / 17500,
    warmup_method="linear",
    warmup_factor=0.001,
)

train = get_config("common/train.py").train
train.max_iter = 17500
train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
train.output_dir = "output/lazy_nds_cityscapes_23k"
