"""nds-client: experts, scores and searches from a user's side, and the images from their providers."""
