"""Devices of replicas.

module → what proves it:

    mesh, placement, ranks, sharding → test_placement.py
"""
