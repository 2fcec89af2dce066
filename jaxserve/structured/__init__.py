"""Answers with a shape: what was asked for becomes a grammar of llguidance, and a grammar a mask over tokens.

Host only. This room knows neither strings of a conversation nor arrays of a device.
"""
