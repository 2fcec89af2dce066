"""The key-value cache: pages on the device (pages.py), their accounting (pool.py), and the prefix cache (prefix.py)."""
