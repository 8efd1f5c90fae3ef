# COCO selected for PASCAL VOC 2007 (boxes only), 23K images.
#   torchrun --nproc_per_node 8 -m nds_plugin.commands.train_mm nds_voc.py --launcher pytorch
# Data: $DETECTRON2_DATASETS/{coco,VOC2007} as in docs/datasets.md. Pretraining has a mask head, fine-tuning none.
_base_ = "./_base_/full_size.py"

mask_roi_extractor = _base_.model.roi_head.mask_roi_extractor
mask_head = _base_.model.roi_head.mask_head
model = dict(roi_head=dict(mask_roi_extractor=None, mask_head=None))

# Fine-tuning: Detectron2 trains 07+12 for 18,000 x 16 / 16,551 images = 17.4 epochs; the same of
# 2007's 5,011 images is 5,011 x 17.4 / 16 = 5,450 iterations, steps at 2/3 and 8/9.
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="NDSLoadAnnotations", with_bbox=True),
    dict(type="RandomChoiceResize", scales=[(1333, s) for s in range(480, 801, 32)], keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
train_dataloader = dict(batch_size=2, dataset=dict(pipeline=train_pipeline))
train_cfg = dict(max_iters=5450)
optim_wrapper = dict(
    type="OptimWrapper", optimizer=dict(type="SGD", lr=0.02, momentum=0.9, weight_decay=0.0001)
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=100),
    dict(type="MultiStepLR", by_epoch=False, begin=0, end=5450, milestones=[3600, 4800], gamma=0.1),
]
nds = dict(
    budget=dict(images=23000),
    target=dict(train=["nds_voc_2007_trainval"], test=["nds_voc_2007_test"]),
    pretrain=dict(model=dict(roi_head=dict(mask_roi_extractor=mask_roi_extractor, mask_head=mask_head))),
)
