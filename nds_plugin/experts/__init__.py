"""The experts e_k: how one is trained for each cluster, and how a client scores them (z_k).

May import: errors, settings, files, engine, images, source.
"""
