# COCO selected for a small fashion dataset: miniModaNet, 1,000 + 1,000 images of ModaNet (13 classes).
#   torchrun --nproc_per_node 8 -m nds_plugin.commands.train_mm nds_modanet.py --launcher pytorch
# Data: $DETECTRON2_DATASETS/modanet/{images,annotations/modanet2018_instances_train.json}.
_base_ = "./_base_/full_size.py"

# Fine-tuning: 3,000 x 8 / 1,000 images = 24 epochs, steps at 2/3 and 8/9; our choice.
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="NDSLoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="RandomChoiceResize", scales=[(1000, s) for s in range(480, 641, 32)], keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(1000, 640), keep_ratio=True),
    dict(type="PackDetInputs"),
]
train_dataloader = dict(batch_size=1, dataset=dict(pipeline=train_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
train_cfg = dict(max_iters=3000)
auto_scale_lr = dict(base_batch_size=8)
optim_wrapper = dict(
    type="OptimWrapper", optimizer=dict(type="SGD", lr=0.01, momentum=0.9, weight_decay=0.0001)
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=100),
    dict(type="MultiStepLR", by_epoch=False, begin=0, end=3000, milestones=[2000, 2670], gamma=0.1),
]
nds = dict(budget=dict(images=23000), target=dict(train=["minimodanet_train"], test=["minimodanet_val"]))
