"""Conversations in the terminal, for `jaxserve chat` and `jaxserve run`."""
