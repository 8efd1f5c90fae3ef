"""Heads, backbones and checkpoints, and weights handed from one set of classes to another."""
