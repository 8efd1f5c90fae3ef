# CPU size: MMDetection's Mask R-CNN, made thin (ResNet-18 of 32 channels, FPN of 48), from random weights.
_base_ = "./full_size.py"

model = dict(
    backbone=dict(
        depth=18,
        stem_channels=32,
        base_channels=32,
        frozen_stages=-1,
        norm_eval=False,
        init_cfg=None,
    ),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=48),
    rpn_head=dict(in_channels=48, feat_channels=48, anchor_generator=dict(scales=[2])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=48, roi_layer=dict(sampling_ratio=2)),
        bbox_head=dict(in_channels=48, fc_out_channels=128),
        mask_roi_extractor=dict(out_channels=48, roi_layer=dict(sampling_ratio=2)),
        mask_head=dict(num_convs=2, in_channels=48, conv_out_channels=48),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=200, max_per_img=100),
        rcnn=dict(sampler=dict(num=64)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=100), rcnn=dict(max_per_img=100)),
)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="NDSLoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="RandomChoiceResize", scales=[(256, 144), (256, 160), (256, 176)], keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(256, 160), keep_ratio=True),
    dict(type="PackDetInputs"),
]
train_dataloader = dict(
    batch_size=8, num_workers=1, persistent_workers=True, dataset=dict(pipeline=train_pipeline)
)
test_dataloader = dict(batch_size=8, num_workers=1, dataset=dict(pipeline=test_pipeline))
auto_scale_lr = dict(base_batch_size=8)  # one process
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=200))
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=0.001, weight_decay=0.01))
nds = dict(
    budget=dict(share=0.2),
    partition=dict(num_clusters=8),
    # For networks (nds.experts.kind="network"); heads, the default, have no schedule.
    experts=dict(shared_steps=150, steps=60, batch_size=16, base_lr=0.02),
    loader=dict(max_unreadable=0.02),
    pretrain=dict(
        auto_scale_lr=dict(base_batch_size=8),
        train_dataloader=dict(batch_size=8, dataset=dict(pipeline=train_pipeline)),
        optim_wrapper=dict(
            _delete_=True, type="OptimWrapper", optimizer=dict(type="AdamW", lr=0.001, weight_decay=0.01)
        ),
    ),
)
