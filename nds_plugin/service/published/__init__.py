"""Published sets on disk, as the server reads them."""
