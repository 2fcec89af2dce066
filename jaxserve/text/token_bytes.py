"""PieceDecoder: vocabulary pieces to bytes: `Ġthe` is b" the", `<0xE2>` is b"\\xe2", `▁the` is b" the".

It exists where a token's bytes do not depend on its neighbors: for byte-level BPE, and for SentencePiece with byte
fallback. Nearly all language models use one of these two. The rules are those of the tokenizer's own decoder.
"""

import json
from dataclasses import dataclass
from typing import Any

import tokenizers


def _byte_of_char() -> dict[str, int]:
    """Return GPT-2's alphabet: printable Latin-1 characters stand for themselves, U+0100 and up for the other bytes."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(plain)]
    return {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTE_OF_CHAR = _byte_of_char()
CHAR_OF_BYTE = {byte: char for char, byte in _BYTE_OF_CHAR.items()}


@dataclass(frozen=True, slots=True)
class PieceDecoder:
    """The rules by which pieces become bytes.

    is_byte_level        Pieces are written in GPT-2's alphabet.
    has_byte_fallback    `<0xE2>` stands for a byte.
    replacements         Pairs (from, to), applied in order to all other pieces.
    num_stripped_spaces  Spaces that are dropped at the very start of a text.
    """

    is_byte_level: bool = False
    has_byte_fallback: bool = False
    replacements: tuple[tuple[str, str], ...] = ()
    num_stripped_spaces: int = 0

    def decode(self, piece: str) -> bytes:
        """Return the bytes that a piece stands for."""
        if self.is_byte_level:
            try:
                return bytes([_BYTE_OF_CHAR[char] for char in piece])
            except KeyError:  # an added token outside the alphabet is plain text
                return piece.encode()
        if self.has_byte_fallback and len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
            try:
                return bytes([int(piece[3:5], 16)])
            except ValueError:
                pass
        for old, new in self.replacements:
            piece = piece.replace(old, new)
        return piece.encode()


def find_piece_decoder(backend: tokenizers.Tokenizer) -> PieceDecoder | None:
    """Return the rules of the tokenizer's decoder; None if its tokens have no bytes of their own."""
    decoder = backend.decoder
    if decoder is None:
        return None
    return _parse_decoder(json.loads(decoder.__getstate__()))


def _parse_decoder(decoder: dict[str, Any]) -> PieceDecoder | None:
    if decoder["type"] == "ByteLevel":
        return PieceDecoder(is_byte_level=True)
    steps = decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
    if [step["type"] for step in steps] == ["ByteLevel"]:
        return PieceDecoder(is_byte_level=True)
    replacements: list[tuple[str, str]] = []
    byte_fallback, strip = False, 0
    for step in steps:
        if step["type"] == "Replace" and set(step["pattern"]) == {"String"} and not byte_fallback:
            replacements.append((step["pattern"]["String"], step["content"]))
        elif step["type"] == "ByteFallback":
            byte_fallback = True
        elif step["type"] == "Strip" and step["content"] == " " and step["stop"] == 0 and strip == 0:
            strip = step["start"]
        elif step["type"] != "Fuse":
            return None
    return PieceDecoder(False, byte_fallback, tuple(replacements), strip) if byte_fallback else None
