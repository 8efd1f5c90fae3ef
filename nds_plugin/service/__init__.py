"""The web service: lists sources, hands out experts, answers scores with links to the providers."""
