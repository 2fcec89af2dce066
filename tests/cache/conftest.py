"""The key-value cache.

module → what proves it:

    pages, layer_cache, groups → test_pages.py
    pool → test_pool.py, test_audit.py
    prefix → test_prefix.py, test_audit.py
    events → test_events.py, engine/test_scheduler_life.py
    manager, invariants → test_manager.py, engine/test_invariants.py
    page_copies → test_page_copies.py
    snapshots, slot_pool, host_slots → test_snapshots.py, engine/test_conversations.py
    sizing → test_sizing.py
"""
