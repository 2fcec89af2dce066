"""lm-eval: local-completions with prompts of token ids, and local-chat-completions, on the texts of a directory.

Started with a third word: the directory that holds model/ and texts.jsonl with transformers' log-likelihoods.
"""

import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from urllib.request import Request, urlopen

from checks import MODEL, URL, equal, holds, run

REFERENCE = Path(sys.argv[3])
TASKS = Path(__file__).resolve().parent / "lm_eval"
TOLERANCE = 1e-3
NUM_ANSWERS = 8


def evaluated(model, path, task, *words):
    """What `lm_eval` logged of each text; `model` is lm-eval's name for the kind of client."""
    given = {
        "model": MODEL,
        "base_url": f"{URL}{path}",
        "num_concurrent": 4,
        "max_retries": 1,
        "tokenizer_backend": "huggingface",
        "tokenizer": REFERENCE / "model",
        "tokenized_requests": model == "local-completions",  # prompts are lists of token ids
    }
    listed = ",".join(f"{name}={value}" for name, value in given.items())
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "lm_eval", "--model", model, "--model_args", listed, "--tasks", task]
        command += ["--include_path", str(TASKS), "--output_path", out, "--log_samples", *words]
        ended = subprocess.run(
            command,
            cwd=REFERENCE,  # where the tasks look for texts.jsonl
            env={**os.environ, "HF_HOME": f"{out}/hf", "OPENAI_API_KEY": "none"},
            stdout=sys.stderr,
        )
        equal(ended.returncode, 0, "its exit code")
        (file,) = Path(out).rglob("samples_*.jsonl")
        samples = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return sorted(samples, key=lambda sample: sample["doc_id"])


@cache
def scored():
    return evaluated("local-completions", "/v1/completions", "texts")


def loglikelihoods_equal_those_of_transformers():
    differences = []
    for sample in scored():
        ((value, _),) = [response for (response,) in sample["resps"]]
        differences.append(abs(float(value) - sample["doc"]["loglikelihood"]))
    equal(len(differences), len((REFERENCE / "texts.jsonl").read_text().splitlines()), "texts")
    found = f"largest difference {max(differences):.1e} over {len(differences)} texts"
    holds(max(differences) <= TOLERANCE, f"{found}, allowed are {TOLERANCE}")
    return found


def greedy_where_transformers_is():
    for sample in scored():
        ((_, is_greedy),) = [response for (response,) in sample["resps"]]
        equal(str(is_greedy), str(sample["doc"]["is_greedy"]), sample["doc"]["context"])
    num_greedy = sum(sample["doc"]["is_greedy"] for sample in scored())
    holds(num_greedy, "no text is greedy")
    return f"{num_greedy} texts are"


def post(path, **body):
    data = json.dumps({"model": MODEL, **body}).encode()
    with urlopen(Request(f"{URL}{path}", data, {"Content-Type": "application/json"})) as answer:
        return json.load(answer)["choices"][0]


def generation():
    """The same answers as without lm-eval between."""
    for sample in evaluated("local-completions", "/v1/completions", "answers", "--limit", str(NUM_ANSWERS)):
        alone = post("/v1/completions", prompt=sample["doc"]["context"], temperature=0, max_tokens=24, stop=["."])
        equal(sample["resps"][0][0], alone["text"], "the answer")
    return f"{NUM_ANSWERS} texts"


def chat():
    words = ("--limit", str(NUM_ANSWERS), "--apply_chat_template")
    for sample in evaluated("local-chat-completions", "/v1/chat/completions", "answers", *words):
        messages = [{"role": "user", "content": sample["doc"]["context"]}]
        alone = post("/v1/chat/completions", messages=messages, temperature=0, max_tokens=24, stop=["."])
        equal(sample["resps"][0][0], alone["message"]["content"], "the answer")
    return f"{NUM_ANSWERS} texts"


run(loglikelihoods_equal_those_of_transformers, greedy_where_transformers_is, generation, chat)
