"""Readers of the public datasets and of COCO files; each leaves an annotation store and an index.

May import: errors, extras, settings, files, images, store, command_line, source.
"""
