"""Files on disk: atomic artefacts with hashes, locks between processes, and foreign files read
without executing them.

May import: errors, settings.
"""
