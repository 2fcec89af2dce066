"""Constraints of outputs.

module → what proves it:

    compiler, sandboxed_compile → test_compiler.py, test_hostile.py
    guide → test_guide.py
    grammar_tokenizer → test_grammar_tokenizer.py
    grammar_expr, derivatives, uninhabited, productions, productions_lark, lark_builder, lark_writer →
        test_grammar_expr.py, test_grammars.py
    gbnf, lexemes → test_gbnf.py
    branching → test_branching.py
    exact_numbers, number_patterns → test_exact_numbers.py
    formats, unenforced_formats → test_formats.py
    lookaheads → test_lookaheads.py
    patterns, text_patterns → test_patterns.py
    parameter_schema, parameter_types, argument_writers → test_parameter_types.py
    regions, tagged_text, quoted_literals → test_regions.py
    structural_tags, tag_fields → test_structural_tags.py
    resolve, schema_keywords, schema_merge, keyword_merge, allof_merge, object_merge, object_members, json_lark,
        bounded_json → test_schemas.py, test_schema_walks.py, test_schema_corpora.py
"""
