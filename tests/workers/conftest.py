"""Killable processes.

module → what proves it:

    confine, pool, process, worker → test_workers.py
"""
