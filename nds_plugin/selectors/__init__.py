"""Selectors beside the experts: each makes weights of clusters or of single images, and says its cost."""
