"""The synthetic sample: six domains drawn by the package, with exact masks."""
