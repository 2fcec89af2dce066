"""Layers of networks.

module → what proves it:

    embedding, linear, mlp, norms, param_spec → test_layers.py
    moe, experts → test_moe.py
    quant → test_quant.py
    adapter, adapted → test_adapted.py, tests/engine/test_adapters.py
    scaled_weight → test_scaled_weight.py
    int4_gpu → test_int4_gpu.py
    experts_gpu, gpu_tiles → test_experts_gpu.py
    rope → test_rope.py
    causal_conv, delta_rule, mamba2, row_chunks → tests/models/test_recurrent_rows.py
"""
