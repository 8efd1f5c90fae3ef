"""Parts of MMDetection's models and pipelines for sources that differ in their classes and masks."""
