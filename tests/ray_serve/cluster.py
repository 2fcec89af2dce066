"""A Ray of one machine that serves the application, as a process: `python -m tests.ray_serve.cluster MODEL PORT`.

It prints `started` when Ray runs, and `ready` when the application does. The command `delete` on standard input ends
the application, at the end of the input Ray ends.
"""

import logging
import sys

import ray
from ray import serve

from jaxserve.ray import app

NAME = "jaxserve"
OBJECT_STORE_BYTES = 80 << 20
SETTINGS = {
    "num_cpus": 0,  # Ray has one, so that it starts few processes
    "min_replicas": 2,
    "max_replicas": 2,
    "max_model_len": 512,
    "max_num_seqs": 2,
    "max_num_batched_tokens": 64,
    "block_size": 16,
    "num_gpu_blocks_override": 128,
    "drain_timeout_s": 60,
    "enable_prompt_tokens_details": True,
    "roofline": False,
}


def main(model: str, port: int, directory: str) -> None:
    """Serve until the end of the input. directory: for Ray's files; its path must be short, for sockets are in it."""
    ray.init(
        num_cpus=1,
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        logging_level=logging.WARNING,
        log_to_driver=False,
        _temp_dir=directory,
    )
    print("started", flush=True)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(app({"model": model, **SETTINGS}), name=NAME)
    print("ready", flush=True)
    for line in sys.stdin:
        if line.strip() == "delete":
            serve.delete(NAME)
            print("deleted", flush=True)
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
