"""Files of the paper authors' client."""
