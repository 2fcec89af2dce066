"""Kernels in C behind `jax.ffi`, for what XLA does slowly on CPUs. Without a compiler only speed is lost."""
