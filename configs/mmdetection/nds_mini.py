# CPU size, on the real photographs of $NDS_DATA: 2,900 joined source images selected for 100 Cityscapes images.
#   NDS_DATA=/path/to/data nds train-mm nds_mini.py
_base_ = "./_base_/thin.py"

# Fine-tuning: 400 x 8 / 100 images = 32 epochs.
train_cfg = dict(max_iters=400)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=50),
    dict(type="MultiStepLR", by_epoch=False, begin=0, end=400, milestones=[300], gamma=0.1),
]
sources = (
    *(
        "coco_mini",
        "openimages",
        "coco_person",
        "camvid",
        "highway",
        "carla",
        "urban_cam",
        "road_signs",
        "uwear",
    ),
    *("indoor_home", "amenity", "doors", "food", "facades", "drone_vehicles", "animals", "pets_det"),
    *("playing_cards", "bccd", "foosball"),
)
nds = dict(
    work_dir="output/mini_mm/nds",
    source=dict(datasets=[f"nds_data_{name}_train" for name in sources]),
    target=dict(train=["nds_data_cityscapes_train"], test=["nds_data_cityscapes_val"], num_images=100),
    experts=dict(crop_size=128, share=0.5),  # half of each cluster, four rotations an image
    # 800 x 8 = 6,400 images: 11 epochs of the 20 %, 2.2 of the full source.
    pretrain=dict(
        train_cfg=dict(max_iters=800),
        param_scheduler=[
            dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=50),
            dict(type="MultiStepLR", by_epoch=False, begin=0, end=800, milestones=[600], gamma=0.1),
        ],
    ),
    full=dict(_delete_=True, pretrain=dict()),
)
