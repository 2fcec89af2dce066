"""Model families.

module → what proves it:

    architecture, config_reader, config_values, registry, rope_config → test_architectures.py, test_longrope.py
    moe_values, latent_values, mamba2_values, delta_values, short_conv_values → test_parity.py, test_architectures.py
    spec, attention_spec, latent_spec, latent_attention, decoder, cost →
        test_specs.py, test_decoder.py, test_lowered.py
    family, origins → test_published_sizes.py, test_specs.py
    gemma4 → test_gemma4.py
    encoder, encoder_spec, encoder_family, encoders, pooled_decoder, pooling_spec, bert, roberta, distilbert →
        pooling/test_encoders.py, pooling/test_decoders.py, pooling/test_rerankers.py
    modernbert → pooling/test_modernbert.py
    dense_params, and layers/dense, engine/dense_files, engine/sentence_transformers → pooling/test_dense.py
    the module of each family →
        test_parity.py, test_published_sizes.py, test_smollm2.py, test_gemma3_270m.py
    text_part → test_text_part.py
    families.json, FAMILIES.md → test_family_table.py
    types of pages, in a whole decoder → test_page_type_logits.py
    recurrent_rows, and layers/delta_rule, layers/mamba2, layers/causal_conv, layers/row_chunks →
        test_recurrent_rows.py
    shared_keys_spec, shared_keys_layer, layer_inputs → test_parity.py, test_specs.py, test_architectures.py
    block_parts → test_specs.py, test_parity.py
    attention_spec, attention_layer, recurrent_spec, delta_spec, delta_layer, mamba2_spec, mamba2_layer,
        short_conv_spec, short_conv_layer →
        test_specs.py, test_parity.py
"""
