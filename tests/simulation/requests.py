"""Bodies of requests, made at random; each with the status that it must get when nothing is in the way."""

from collections.abc import Sequence
from random import Random
from typing import Any

LETTERS = "abcdefghijklmnopqrstuvwxyz .,"


def make_body(rng: Random, settings: dict[str, Any], base: int, systems: Sequence[str]) -> dict[str, Any]:
    """Make a request: its path, its body and the status that it gets. base: its number; its seeds are from 8 * base."""
    kind = rng.choices(["completions", "chat", "tokenize", "bad", "load"], [50, 30, 6, 8, 1])[0]
    if kind == "load":
        return {"path": "/load", "body": None, "status": 200}
    if kind == "tokenize":
        return {"path": "/tokenize", "body": {"prompt": _make_text(rng, 40)}, "status": 200}
    if kind == "bad":
        return _make_bad(rng, base)
    longest = settings["max_model_len"]
    body: dict[str, Any] = {"seed": 8 * base, "return_token_ids": True, "max_tokens": rng.randint(1, 24)}
    system = rng.choice(systems) if rng.random() < 0.6 else ""
    text = (system + _make_text(rng, 24))[: longest // 2 - 8] or "a"
    if kind == "chat":
        body["messages"] = [{"role": "user", "content": text}]
    else:
        body["prompt"] = text
        if rng.random() < 0.1:
            body["prompt"] = [text, text + "b", "c"][: rng.randint(2, 3)]
    _add_sampling(rng, settings, body)
    path = "/v1/chat/completions" if kind == "chat" else "/v1/completions"
    return {"path": path, "body": body, "status": 200}


def _add_sampling(rng: Random, settings: dict[str, Any], body: dict[str, Any]) -> None:
    body["temperature"] = rng.choice([0.0, 1.0, 1.0])
    if rng.random() < 0.2:
        body |= {"n": rng.randint(2, 4), "temperature": 1.0}
    if rng.random() < 0.06:
        body |= {"n": min(rng.randint(2, 4), settings["max_num_seqs"]), "use_beam_search": True, "temperature": 0.0}
        body["max_tokens"] = min(body["max_tokens"], 8)
    elif rng.random() < 0.3:
        body["stop"] = [rng.choice("abcdefghij") + rng.choice("abcdefghij") for _ in range(2)]
        if rng.random() < 0.5:
            body["stop"] = [rng.choice("abcdefghij")]
    if rng.random() < 0.6 and "use_beam_search" not in body:
        body["stream"] = True
        if rng.random() < 0.5:
            body["stream_options"] = {"include_usage": True}
    if rng.random() < 0.3:
        body["ignore_eos"] = True
    elif rng.random() < 0.1 and not body.keys() & {"stop", "use_beam_search"}:
        body["min_tokens"] = rng.randint(1, body["max_tokens"])
    options: tuple[dict[str, Any], ...] = (
        {"repetition_penalty": 1.5},
        {"frequency_penalty": 0.5, "logit_bias": {"3": 2.0}},
        {"presence_penalty": -1.0},
        {"allowed_token_ids": [2, 3, 5, 7, 11]},
        {"bad_words": ["ab", "c"]},
        {"logprobs": True, "top_logprobs": 2} if "messages" in body else {"logprobs": 2},
        {"repetition_detection": {"max_pattern_size": 2, "min_count": 2}},
        {"cache_salt": "pepper"},
    )
    if rng.random() < 0.4:
        body |= rng.choice(options)
    if settings["scheduling_policy"] == "priority":
        body["priority"] = rng.choice([0, 0, -1, 3])


def _make_bad(rng: Random, base: int) -> dict[str, Any]:
    body = {"prompt": "a b", "max_tokens": 2, "seed": 8 * base}
    choices: tuple[tuple[str, Any, int], ...] = (
        ("/v1/completions", body | {"temperature": -1}, 400),
        ("/v1/completions", body | {"prompt": [1000]}, 400),
        ("/v1/completions", body | {"prompt": ""}, 400),
        ("/v1/completions", body | {"max_tokens": 100_000}, 400),
        ("/v1/completions", body | {"model": "nobody"}, 404),
        ("/v1/completions", "no JSON", 400),
        ("/v1/chat/completions", {"messages": []}, 400),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "z" * 5000}]}, 400),
        ("/nowhere", {}, 404),
    )
    path, content, status = rng.choice(choices)
    return {"path": path, "body": content, "status": status}


def _make_text(rng: Random, longest: int) -> str:
    return "".join(rng.choice(LETTERS) for _ in range(rng.randint(1, longest)))
