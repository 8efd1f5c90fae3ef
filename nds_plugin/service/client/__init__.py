"""The client of the web service: scores on its own machine and sends K numbers."""
