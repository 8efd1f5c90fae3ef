"""Cityscapes: id images and polygons."""
