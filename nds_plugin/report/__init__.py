"""What people look at: figures, tables over seeds, and the one-page report of finished runs.

May import: errors, settings, files, images, source, experts, selection.
"""
