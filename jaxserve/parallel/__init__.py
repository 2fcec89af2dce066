"""Devices and what lies on them: choice of devices, the mesh, the table of sharding rules, and the placement."""
