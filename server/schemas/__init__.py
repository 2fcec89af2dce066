"""The gate: what strangers' JSON must look like. Pydantic stops here; nothing behind it says JSON."""
