"""PASCAL VOC 2007: XML boxes and masks."""
