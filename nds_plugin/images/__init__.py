"""Images and what sees them: one reader of photographs, crops, the networks and linear models that
look at crops.

May import: errors, extras, settings, files.
"""
