"""From logits to a token: columns of settings, filters, the draw, and log-probabilities. Pure functions of arrays."""
