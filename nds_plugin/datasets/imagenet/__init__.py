"""Downsampled ImageNet in its published batches."""
