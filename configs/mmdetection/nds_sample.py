# CPU size, on the embedded synthetic sample: six source domains selected for the client "city".
# The sample is made on the spot under $DETECTRON2_DATASETS/nds_sample.
#   nds train-mm nds_sample.py
_base_ = "./_base_/thin.py"

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="NDSLoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="RandomChoiceResize", scales=[(256, 128), (256, 144)], keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(256, 144), keep_ratio=True),
    dict(type="PackDetInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
default_hooks = dict(checkpoint=dict(interval=50))
# Fine-tuning: 75 x 8 / 40 images = 15 epochs.
train_cfg = dict(max_iters=75)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=20),
    dict(type="MultiStepLR", by_epoch=False, begin=0, end=75, milestones=[60], gamma=0.1),
]
nds = dict(
    work_dir="output/sample_mm/nds",
    source=dict(
        datasets=[f"nds_sample_{d}_train" for d in ("street", "room", "meadow", "harbour", "desert", "shelf")]
    ),
    target=dict(train=["nds_sample_city_train"], test=["nds_sample_city_val"], num_images=40),
    partition=dict(num_clusters=6),
    # No network is trained: features of 1,440 images and six fits on a quarter of them, a minute or two of a CPU.
    experts=dict(crop_size=64, share=0.25),
    # 150 x 8 = 1,200 images: 4 epochs of the 20 %, 288 of 1,440 images.
    pretrain=dict(
        train_dataloader=dict(dataset=dict(pipeline=train_pipeline)),
        train_cfg=dict(max_iters=150),
        param_scheduler=[
            dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=20),
            dict(type="MultiStepLR", by_epoch=False, begin=0, end=150, milestones=[120], gamma=0.1),
        ],
    ),
    full=dict(_delete_=True, pretrain=dict()),
)
