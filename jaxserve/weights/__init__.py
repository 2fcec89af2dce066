"""Weights: fetch a model, open and check its checkpoint, load it onto devices."""
