"""Layers of networks: each a small NNX module or a function of arrays."""
