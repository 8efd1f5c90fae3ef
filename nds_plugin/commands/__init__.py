"""The command line: ``nds`` and its verbs, a module each, over the other rooms.

May import: errors, extras, settings, files, engine, images, store, command_line, source, experts, datasets,
report, selection, pipeline, job, d2, mm, ssl, service, experiments.
"""
