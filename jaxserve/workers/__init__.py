"""Killable worker processes, in which chat templates and grammars that came with a request are compiled.

A worker is a fresh interpreter, never a fork: it holds no model, no API key and no environment of the server. Its input
and output are JSON. It imports neither JAX nor the engine, and is started when the first task needs it.
"""
