"""Selectors beside the experts: gate, nearest neighbours, domain classifier, oracle."""
