"""Killable processes.

module → what proves it:

    pool, process, worker → test_workers.py
"""
