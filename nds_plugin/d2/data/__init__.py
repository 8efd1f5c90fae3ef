"""Registered datasets, drawn subsets among them, and the loader that trains on them."""
