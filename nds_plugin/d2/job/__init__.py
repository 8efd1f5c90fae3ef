"""The main job, from index to results."""
