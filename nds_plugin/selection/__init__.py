"""The method from z to a draw: weights w of clusters, probabilities p of images, subsets and
endless streams.

May import: errors, settings, files, images, source, experts.
"""
