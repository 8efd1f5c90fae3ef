"""Tables of many runs: rows and cells, the processes that run them, and the pages that show them.

May import: errors, extras, settings, files, engine, images, store, command_line, source, experts, datasets,
report, selection, pipeline, job, d2, ssl.
"""
