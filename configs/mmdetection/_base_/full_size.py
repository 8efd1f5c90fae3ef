# What all full-size configs share: MMDetection's own Mask R-CNN R50-FPN from ImageNet weights.
_base_ = ["mmdet::_base_/models/mask-rcnn_r50_fpn.py", "mmdet::_base_/default_runtime.py"]

# StandardRoIHead that also takes boxes without masks and joined label spaces.
model = dict(roi_head=dict(type="NDSRoIHead"))

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="NDSLoadAnnotations", with_bbox=True, with_mask=True),
    dict(
        type="RandomChoiceResize", scales=[(1333, s) for s in (640, 672, 704, 736, 768, 800)], keep_ratio=True
    ),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(1333, 800), keep_ratio=True),
    dict(type="PackDetInputs"),
]
# Which images, nds says. batch_size is that of one process; the schedules here are for eight processes, and the
# job warns of another number by base_batch_size.
auto_scale_lr = dict(enable=False, base_batch_size=16)
train_dataloader = dict(
    batch_size=2, num_workers=2, persistent_workers=True, dataset=dict(pipeline=train_pipeline)
)
test_dataloader = dict(batch_size=1, num_workers=2, dataset=dict(pipeline=test_pipeline))

default_hooks = dict(
    logger=dict(type="LoggerHook", interval=50),
    checkpoint=dict(type="NDSCheckpointHook", interval=1000, max_keep_ckpts=2, by_epoch=False, _delete_=True),
)
log_processor = dict(by_epoch=False)

nds = dict(
    selector="nds",
    seed=0,
    temperature=0.1,
    source=dict(datasets=["coco_2017_train"]),
    partition=dict(num_clusters=50),
    # For networks (nds.preset="paper"); heads, the default, have no schedule.
    # Shared network: 40,000 steps x 64 crops = 2.56 M crops, 22 epochs of COCO's 118,287 images.
    # Each expert: 5,000 steps x 64 crops = 0.32 M crops; 50 experts see 16 M.
    experts=dict(shared_steps=40000, steps=5000, batch_size=64),
    # 1x is 90,000 iterations x 16 = 1.44 M images, 12.2 epochs of COCO. The same 12.2 epochs of a budget of
    # 23,000 images: 23,000 x 12.2 / 16 = 17,500 iterations, with the steps at 2/3 and 8/9 of it as in 1x.
    pretrain=dict(
        auto_scale_lr=dict(base_batch_size=16),
        train_dataloader=dict(batch_size=2, dataset=dict(pipeline=train_pipeline)),
        train_cfg=dict(max_iters=17500),
        optim_wrapper=dict(
            type="OptimWrapper", optimizer=dict(type="SGD", lr=0.02, momentum=0.9, weight_decay=0.0001)
        ),
        param_scheduler=[
            dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=1000),
            dict(
                type="MultiStepLR", by_epoch=False, begin=0, end=17500, milestones=[11700, 15600], gamma=0.1
            ),
        ],
    ),
    # The whole source, for the selector full: 1x.
    full=dict(
        pretrain=dict(
            train_cfg=dict(max_iters=90000),
            param_scheduler=[
                dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=1000),
                dict(
                    type="MultiStepLR",
                    by_epoch=False,
                    begin=0,
                    end=90000,
                    milestones=[60000, 80000],
                    gamma=0.1,
                ),
            ],
        )
    ),
)
