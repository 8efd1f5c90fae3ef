"""Datasets and the sampler: the identity of images, the draw, and what is trained on."""
