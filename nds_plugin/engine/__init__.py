"""Where the work on a source runs: passes over shards, in this process, on a launcher's ranks, or on Ray.

May import: errors, extras, settings, files.
"""
