"""Classification sets, one label an image."""
