"""The training loop and its hooks: where a run begins, what is drawn, and what a checkpoint holds."""
