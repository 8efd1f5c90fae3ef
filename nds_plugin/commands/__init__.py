"""What the command line tools share above all other rooms.

May import: errors, files, images, store, command_line, source, experts, datasets, report,
selection, pipeline, d2, service, experiments.
"""
