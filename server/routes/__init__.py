"""The routes, one module for each family of endpoints.

Every route checks in the same order: content type, JSON, schema, model, admission, prompt. Then it generates.
"""
