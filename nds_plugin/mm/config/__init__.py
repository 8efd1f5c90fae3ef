"""A config of MMEngine with a part ``nds``: loaded, checked, and turned into the settings of the steps."""
