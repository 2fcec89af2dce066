"""Structured outputs: a request's constraint becomes a grammar of llguidance, and the grammar a mask over tokens.

Host only: this package knows neither the text of a conversation nor arrays of a device.
"""
