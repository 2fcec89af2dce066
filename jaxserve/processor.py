"""What the system says of the processor: its kind and its features."""

import platform
from pathlib import Path


def read_processor() -> tuple[str, str]:
    """Return the kind of this processor and the names of its features, both in words."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown", ""
    facts: dict[str, str] = {}
    for line in lines:  # all processors of a machine are taken to be alike
        name, _, value = line.partition(":")
        facts.setdefault(name.strip(), value.strip())
    names = ("model name", "cpu family", "model", "CPU implementer", "CPU part")
    kind = ", ".join(f"{name} {facts[name]}" for name in names if name in facts)
    return kind or "unknown", facts.get("flags") or facts.get("Features", "")


def has_feature(name: str) -> bool:
    """Return whether the processor has a feature, by its name in Linux."""
    return name in read_processor()[1].split()
