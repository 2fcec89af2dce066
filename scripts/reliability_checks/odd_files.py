"""Damage that any file may have: bytes that are changed, cut or added, and what is no regular file."""

import os
import random
from pathlib import Path

WEIGHTS = (".safetensors", ".gguf")


def damage_any_file(rng: random.Random, file: Path) -> tuple[str, bool]:
    """Damage a file; return what was done, and whether no start may succeed."""
    if rng.random() < 0.3:
        return _replace_file(rng, file)
    data = bytearray(file.read_bytes())
    is_in_head = rng.random() < 0.7  # where a weights file has few of its bytes
    place = rng.randrange(min(len(data), 4000) if is_in_head else len(data))
    is_fatal = False
    match rng.randrange(5):
        case 0:
            for _ in range(rng.randint(1, 4)):
                data[(place + rng.randrange(64)) % len(data)] = rng.randrange(256)
            words = f"bytes at {place} are others"
        case 1:
            del data[place:]
            words, is_fatal = f"it is cut to {place} bytes", file.suffix in WEIGHTS
        case 2:
            data[place:place] = rng.randbytes(rng.randint(1, 100))
            words = f"bytes at {place} are added"
        case 3:
            data[place : place + 512] = bytes(len(data[place : place + 512]))
            words = f"512 bytes at {place} are zero"
        case _:
            data[place : place + 100] = b""
            words = f"100 bytes at {place} are gone"
    file.write_bytes(data)
    return words, is_fatal


def _replace_file(rng: random.Random, file: Path) -> tuple[str, bool]:
    file.unlink()
    kind = rng.choice(("nothing", "a directory", "a pipe", "a link to itself", "a link to /dev/zero", "an empty file"))
    match kind:
        case "a directory":
            file.mkdir()
        case "a pipe":
            os.mkfifo(file)
        case "a link to itself":
            file.symlink_to(file)
        case "a link to /dev/zero":
            file.symlink_to("/dev/zero")
        case "an empty file":
            file.touch()
    return f"{kind} is in its place", file.suffix in WEIGHTS or file.name in ("config.json", "tokenizer.json")
