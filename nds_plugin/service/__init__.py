"""The web service: published sets of experts, the server, its page, and the client.

May import: errors, extras, settings, files, images, store, command_line, source, experts, datasets,
report, selection, pipeline.
"""
