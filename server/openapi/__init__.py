"""The OpenAPI document, made from the schemas, the table of fields and the table of routes, for this very server: its
limits, its model's defaults and its keys are in it."""
