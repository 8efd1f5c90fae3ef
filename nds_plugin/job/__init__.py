"""What the main jobs of both hosts share: training folders, transfer by class name, results.

May import: errors, extras, settings, files, engine, images, store, source, experts, datasets, report,
selection, pipeline.
"""
