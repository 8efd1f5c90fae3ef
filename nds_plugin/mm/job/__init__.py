"""The main job in MMDetection: select, pretrain, fine-tune, evaluate."""
