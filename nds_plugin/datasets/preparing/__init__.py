"""What is there of the public datasets, and their stores built side by side."""
