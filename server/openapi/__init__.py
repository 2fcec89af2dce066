"""The OpenAPI document of a server, made from the schemas, the table of fields and the table of routes.

It describes this very server: its limits, its model's defaults and whether it needs API keys.
"""
