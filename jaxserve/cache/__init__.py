"""Where keys and values live: pages on the device (pages.py), who holds them on the host (pool.py, prefix.py)."""
