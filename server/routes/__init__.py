"""One file for each family of endpoints. A route reads, checks, asks the library, and answers; the order of its lines
is the order of the contract's checks: content type, JSON, schema, model, admission, prompt, run."""
