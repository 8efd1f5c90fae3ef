"""The steps from a source to a selection, each an artefact on disk that is made once; no host owns
them.

May import: errors, extras, settings, files, engine, images, store, command_line, source, experts, datasets,
report, selection.
"""
