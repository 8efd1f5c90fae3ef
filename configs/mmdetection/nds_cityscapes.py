# Tables 4-5's target: COCO selected for Cityscapes, 23K images.
#   torchrun --nproc_per_node 8 -m nds_plugin.commands.train_mm nds_cityscapes.py --launcher pytorch
# Data: $DETECTRON2_DATASETS/{coco,cityscapes} as in docs/datasets.md.
# Not yet run at this size by us.
_base_ = "./_base_/full_size.py"

# Fine-tuning as Detectron2's Cityscapes config: 24,000 x 8 / 2,975 images = 64.5 epochs.
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="NDSLoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="RandomChoiceResize", scales=[(2048, s) for s in range(800, 1025, 32)], keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(2048, 1024), keep_ratio=True),
    dict(type="PackDetInputs"),
]
train_dataloader = dict(batch_size=1, dataset=dict(pipeline=train_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
train_cfg = dict(max_iters=24000)
auto_scale_lr = dict(base_batch_size=8)
optim_wrapper = dict(
    type="OptimWrapper", optimizer=dict(type="SGD", lr=0.01, momentum=0.9, weight_decay=0.0001)
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type="MultiStepLR", by_epoch=False, begin=0, end=24000, milestones=[18000], gamma=0.1),
]
nds = dict(
    budget=dict(images=23000),
    target=dict(train=["nds_cityscapes_fine_instance_train"], test=["nds_cityscapes_fine_instance_val"]),
)
