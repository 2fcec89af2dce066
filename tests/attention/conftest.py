"""Attention backends.

module → what proves it:

    reference, inputs, cpu, native → test_backends.py: one contract for all backends
    gpu → test_gpu.py
    tpu → test_tpu.py
"""
