"""Sampling on the device: penalties, masks, filters, the sampler and log-probabilities. Pure functions of arrays."""
