"""What ``tools/prepare_datasets.py`` does: look which public datasets are there, and build their stores."""
