"""The source: its index of images, the features of them, and the clusters S_k that a partition cuts
it into.

May import: errors, settings, files, engine, images.
"""
