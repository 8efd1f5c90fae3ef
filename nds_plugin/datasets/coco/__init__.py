"""COCO json files: streamed, checked, kept as a store; COCO 2017 and ModaNet."""
