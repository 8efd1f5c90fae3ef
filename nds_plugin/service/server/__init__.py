"""The server: a search, its draw and its files over HTTP. It never loads torch."""
