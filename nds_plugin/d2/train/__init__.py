"""The trainer with its hooks, the two stages of a job, and evaluation."""
