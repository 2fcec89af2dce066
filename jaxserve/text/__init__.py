"""The other side of the tokenizer: text ↔ ids, chat templates, stop strings. It has never seen an array."""
