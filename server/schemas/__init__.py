"""The JSON of requests and replies: its schemas, and the checks that the types cannot express.

Pydantic is used in this package and in openapi/ only.
"""
