"""Damage of the heads of weights: lengths, counts, types, shapes and offsets that lie."""

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

SAFETENSORS, GGUF = ".safetensors", ".gguf"
Entries = dict[str, Any]


def damage_safetensors(rng: random.Random, file: Path) -> tuple[str, bool]:
    """Damage the head of a file; return what was done, and whether no start may succeed."""
    data = file.read_bytes()
    length = struct.unpack_from("<Q", data)[0]
    if rng.random() < 0.25:
        claimed = rng.choice(
            (0, 1, length - 1, length + 1, len(data) - 8, len(data), 100 << 20, 1 << 63, (1 << 64) - 1)
        )
        file.write_bytes(struct.pack("<Q", claimed) + data[8:])
        return f"its head has {claimed} bytes, it says", True
    entries = json.loads(data[8 : 8 + length])
    entries.pop("__metadata__", None)
    words = rng.choice(sorted(CHANGES))
    name = rng.choice(sorted(entries))
    head = CHANGES[words](rng, entries, name)
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    return f"{words} ({name})", words not in HARMLESS


def _set(**values: Any) -> Callable[[random.Random, Entries, str], Entries]:
    """Make a change of an entry's fields, each to one of these values."""

    def change(rng: random.Random, entries: Entries, name: str) -> Entries:
        entries[name] |= {field: rng.choice(choices) for field, choices in values.items()}
        return entries

    return change


def _move(by: int) -> Callable[[random.Random, Entries, str], Entries]:
    def move(rng: random.Random, entries: Entries, name: str) -> Entries:
        entries[name]["data_offsets"] = [offset + by for offset in entries[name]["data_offsets"]]
        return entries

    return move


def _widen(rng: random.Random, entries: Entries, name: str) -> Entries:
    entries[name]["shape"][rng.randrange(len(entries[name]["shape"]))] += rng.choice((-1, 1, 1 << 40))
    return entries


def _flatten(rng: random.Random, entries: Entries, name: str) -> Entries:
    shape = entries[name]["shape"]
    entries[name]["shape"] = [*shape, 1] if len(shape) == 1 else [shape[1] * 2, shape[0] // 2]
    return entries


def _rename(rng: random.Random, entries: Entries, name: str) -> Entries:
    return {other + rng.choice(("x", "\n", "\0")) * (other == name): entry for other, entry in entries.items()}


def _drop(rng: random.Random, entries: Entries, name: str) -> Entries:
    del entries[name]
    return entries


def _repeat(rng: random.Random, entries: Entries, name: str) -> bytes:
    entry = json.dumps({name: entries[name]})
    return (json.dumps(entries)[:-1] + ", " + entry[1:]).encode()


CHANGES: dict[str, Callable[[random.Random, Entries, str], Entries | bytes]] = {
    "a type that is none": _set(dtype=("F4", "", None, 3, [], "f32")),
    "another type of the same size": _set(dtype=("I32", "U32")),
    "a type of another size": _set(dtype=("F16", "F64", "BOOL")),
    "a shape that is none": _set(shape=(None, 3, "x", {}, [None], ["4"], [True], [-1], [1.5])),
    "a shape beyond all memory": _set(shape=([1 << 61, 1 << 61], [1 << 70], [1 << 61, 8, 0], [1] * 99)),
    "a shape of other values": _widen,
    "a shape in another order": _flatten,
    "offsets that are none": _set(
        data_offsets=(None, 3, [], [1], [1, 2, 3], ["0", "4"], [-4, 0], [8, 0], [0, 1 << 64])
    ),
    "offsets past the end": _set(data_offsets=([1 << 40, 1 << 41], [0, 1 << 40])),
    "offsets that overlap": _move(-4),
    "offsets that leave a hole": _move(4),
    "a tensor of another name": _rename,
    "a tensor that is missing": _drop,
    "a tensor that is there twice": _repeat,
    "an entry that is none": lambda rng, entries, name: entries | {name: rng.choice((None, [], 3, "x"))},
    "a head that is a list": lambda *_: b"[]",
    "a head that is deep": lambda *_: b"[" * 100_000,
    "a head that is cut": lambda rng, entries, name: json.dumps(entries).encode()[: -rng.randint(1, 200)],
    "a number of 5,000 digits": lambda *_: b'{"a": ' + b"9" * 5000 + b"}",
    "metadata that is none": lambda rng, entries, name: {"__metadata__": rng.choice((None, [], 3)), **entries},
}
HARMLESS = {"another type of the same size", "metadata that is none"}


def damage_gguf(rng: random.Random, file: Path) -> tuple[str, bool]:
    """Damage the head of a file; return what was done, and whether no start may succeed."""
    data = bytearray(file.read_bytes())
    fields = _gguf_fields(data)
    name = rng.choice(sorted(fields))
    place, code = fields[name]
    now = struct.unpack_from(code, data, place)[0]
    limit = 1 << 8 * struct.calcsize(code)
    value = (
        rng.choice((0, 1, 3, 7, 200, now - 1, now + 1, now * 2, limit // 2, limit - 1, rng.randrange(limit))) % limit
    )
    struct.pack_into(code, data, place, value)
    file.write_bytes(data)
    is_fatal = value != now and name.startswith(("magic", "a tensor's size", "the number of tensors"))
    return f"{name} is {value}, not {now}", is_fatal


def _gguf_fields(data: bytearray) -> dict[str, tuple[int, str]]:
    """Return name → (place, struct code) of numbers in the head."""
    fields = {"magic": (0, "<I"), "the version": (4, "<I")}
    fields |= {"the number of tensors": (8, "<Q"), "the number of keys": (16, "<Q")}
    keys = ("general.architecture", "llama.block_count", "llama.embedding_length", "llama.attention.head_count")
    for key in (*keys, "llama.rope.freq_base", "tokenizer.ggml.model", "tokenizer.chat_template"):
        place = data.find(key.encode())
        after = place + len(key)
        fields |= {f"the length of {key}": (place - 8, "<Q"), f"the type of {key}": (after, "<I")}
        fields[f"the value or length of {key}"] = (after + 4, "<I")
    for key in ("tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.merges"):
        after = data.find(key.encode()) + len(key)
        fields |= {
            f"the type of values of {key}": (after + 4, "<I"),
            f"the number of values of {key}": (after + 8, "<Q"),
        }
        fields[f"the first value or length of {key}"] = (after + 16, "<I")
    for name in ("blk.0.attn_q.weight", "blk.1.ffn_down.weight", "token_embd.weight"):
        after = data.find(name.encode()) + len(name)
        fields |= {f"the number of axes of {name}": (after, "<I"), f"a tensor's size in {name}": (after + 4, "<Q")}
        fields |= {f"the type of {name}": (after + 20, "<I"), f"the offset of {name}": (after + 24, "<Q")}
    return fields
