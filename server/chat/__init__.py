"""A conversation in the terminal: what `jaxserve chat` and `jaxserve run` share."""
