"""Small processes that may be killed: where strangers' templates and grammars are compiled.

A helper is a fresh interpreter, never a fork: it holds no model, no key and no environment of ours. What goes in and
out is JSON. It imports neither JAX nor the engine, and it is only started when there is work for it.
"""
