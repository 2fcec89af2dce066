"""Kernels in C; their results are compared where they are used.

module → what proves it:

    library → test_library.py
    pages.c → test_zeros.py
    attention.c → ../attention/test_backends.py, ../attention/test_freed_pages.py
    linear.c, linear_dot.h → ../layers/test_quant.py
    linear_tiles.h, tiles.h → test_tiles.py
    experts.c → ../layers/test_moe.py
"""
