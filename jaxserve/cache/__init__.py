"""The key-value cache: groups of layers (groups.py), pages on the device (pages.py), and their manager (manager.py)."""
