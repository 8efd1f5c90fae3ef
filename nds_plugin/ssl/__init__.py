"""Self-supervised pretraining (MoCo, RotNet) on a selection, classifiers that start from it, and their main job.

May import: errors, extras, settings, files, engine, images, store, command_line, source, experts, datasets,
report, selection, pipeline, job.
"""
