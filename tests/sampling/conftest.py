"""Logits to tokens.

module → what proves it:

    columns → test_columns.py
    filters → test_filters.py
    gumbel → test_gumbel.py
    logprobs → test_sampling_logprobs.py
    penalties → test_penalties.py
    sampler → test_sampler.py, test_grammar_masks.py
"""
