"""Checkpoints.

module → what proves it:

    checkpoint, protocol, load, mapped_file → test_load.py, test_real_models.py
    load, packing, shards, for fused and stacked tensors of every format → test_layouts.py
    safetensors → test_safetensors.py
    orbax, orbax_writer, pending → test_orbax.py
    source_tensors, safetensors_writer → api/test_conversion.py
    packed_form, packed_integers, packed_floats, packed_tensors, quantized → test_quantized.py, test_quantized_models.py
    quantization, quantization_methods, compressed_tensors → test_quantization.py
    gguf, gguf_header, gguf_metadata, gguf_names, gguf_rope → test_gguf.py
    gguf_config, gguf_families → test_gguf_families.py
    gguf_files → test_gguf_files.py
    gguf_ranking, and engine/gguf_pooling → pooling/test_gguf_pooling.py
    float4 → test_float4.py
    mxfp4 → test_mxfp4.py
    peft, peft_config → test_peft.py
    fetch, wheels → test_fetch.py
    hub → test_hub.py
    protobuf → test_protobuf.py
"""
