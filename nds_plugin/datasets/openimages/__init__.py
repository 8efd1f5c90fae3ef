"""OpenImages: CSV files of boxes, PNG masks, the hierarchy of classes."""
