"""The pieces networks are made of: each a small NNX module, or a function of arrays."""
