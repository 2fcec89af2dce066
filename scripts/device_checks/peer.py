"""The peer of scripts/device: the same decode step through torch, by transformers with its sdpa attention.

Random bfloat16 weights of the same shapes, a static cache, and a CUDA graph where transformers lets one be taken.
Imports neither jax nor jaxserve, so that torch has the device for itself.
"""

import time
from collections.abc import Iterator
from typing import Any

ROUNDS = 3


def peer(configs: dict[str, dict[str, Any]], *, tiny: bool, deadline: float) -> Iterator[dict[str, Any]]:
    """Records of decode steps; one that says why, where torch or transformers is missing."""
    try:
        import torch
        import transformers
    except ImportError as missing:
        yield {"kind": "skipped", "why": f"no peer: {missing}"}
        return
    on_gpu = torch.cuda.is_available()
    if not on_gpu and not tiny:
        yield {"kind": "skipped", "why": "no peer: torch finds no GPU"}
        return
    transformers.logging.set_verbosity_error()
    device, dtype = ("cuda", torch.bfloat16) if on_gpu else ("cpu", torch.float32)
    context, batches = (16, (2,)) if tiny else (1024, (1, 32, 128))
    for model, config in configs.items():
        network = build(config, torch, transformers, device, dtype)
        for rows in batches:
            if time.monotonic() > deadline:
                yield {"kind": "stopped", "why": "the time of this part is over; what is missing was not begun"}
                return
            record = {"kind": "peer", "peer": "transformers, sdpa", "model": model, "rows": rows, "tokens": context}
            try:
                with torch.inference_mode():
                    yield record | time_decode(network, torch, transformers, rows, context, 2 if tiny else 10)
            except Exception as error:  # the peer's troubles end here
                yield record | {"outcome": "failed", "why": f"{type(error).__name__}: {error}"[:500]}
        del network
        if on_gpu:
            torch.cuda.empty_cache()


def build(config: dict[str, Any], torch: Any, transformers: Any, device: str, dtype: Any) -> Any:
    """A network with random weights, made where it will run. Positions turn without scaling: it costs the same."""
    values = {key: value for key, value in config.items() if key not in ("model_type", "rope_parameters")}
    settings = transformers.AutoConfig.for_model(config["model_type"], **values)
    settings._attn_implementation = "sdpa"
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return transformers.AutoModelForCausalLM.from_config(settings).eval()
    finally:
        torch.set_default_dtype(before)


def time_decode(network: Any, torch: Any, transformers: Any, rows: int, context: int, repeats: int) -> dict[str, Any]:
    """Seconds of one step behind `context` tokens: by a CUDA graph, or called where none can be taken."""
    device = network.device
    cache = transformers.StaticCache(config=network.config, max_cache_len=context)
    token = torch.ones((rows, 1), dtype=torch.long, device=device)
    at = torch.full((rows, 1), context - 1, dtype=torch.long, device=device)

    def step() -> Any:
        for layer in getattr(cache, "layers", ()):  # the layers count for themselves; every step is the last one
            if isinstance(getattr(layer, "cumulative_length", None), torch.Tensor):
                layer.cumulative_length.fill_(context - 1)
        return network(
            token, past_key_values=cache, position_ids=at, cache_position=at[0], use_cache=True
        ).logits.argmax(-1)

    run, graphed, why = step, False, None
    step()
    if device.type == "cuda":
        try:
            run, graphed = graph_of(step, torch), True
        except Exception as error:
            why = f"{type(error).__name__}: {error}"[:300]
    seconds = best_s(run, torch, device, repeats)
    return {"seconds": seconds, "cuda_graph": graphed, "why_no_graph": why, "tokens_per_s": rows / seconds}


def graph_of(step: Any, torch: Any) -> Any:
    aside = torch.cuda.Stream()
    with torch.cuda.stream(aside):
        for _ in range(2):
            step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def best_s(run: Any, torch: Any, device: Any, repeats: int) -> float:
    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    run()
    times = []
    for _ in range(ROUNDS):
        wait()
        started = time.perf_counter()
        for _ in range(repeats):
            run()
        wait()
        times.append((time.perf_counter() - started) / repeats)
    return min(times)
