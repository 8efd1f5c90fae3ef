"""The node ``cfg.NDS`` and its presets."""
