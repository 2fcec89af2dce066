"""Settings from the environment: JAXSERVE_ and a field's name in capitals, for every field of the two configs.

A few of vLLM's variables mean the same as a field and are read, too; those with our prefix win. A variable with our
prefix that names no field is reported, with a similar name. Values are never shown: some are secrets.
"""

import re
from collections.abc import Collection, Iterator, Mapping

from server.suggestions import suggest

PREFIX = "JAXSERVE_"
VLLM_VARIABLES = {  # vLLM's variable → the field of the same meaning
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "allow_runtime_lora_updating",
    "VLLM_API_KEY": "api_key",
    "VLLM_BATCH_INVARIANT": "batch_invariant",
    "VLLM_CHAT_TEMPLATE_RENDER_TIMEOUT": "template_timeout_s",
    "VLLM_KEEP_ALIVE_ON_ENGINE_DEATH": "keep_alive_on_engine_death",
    "VLLM_LOGGING_LEVEL": "log_level",
    "VLLM_MAX_COMPLETION_PROMPTS": "max_completion_prompts",
    "VLLM_MAX_N_SEQUENCES": "max_n",
    "VLLM_MAX_STOP_STRINGS": "max_stop_strings",
    "VLLM_SERVER_DEV_MODE": "server_dev_mode",
}
# What Kubernetes puts into the environment of every container beside a service called "jaxserve".
SERVICE_LINK = re.compile(r"SERVICE_(HOST|PORT\w*)|PORT_\d+_(TCP|UDP)\w*")
SERVICE_ADDRESS = re.compile(r"(tcp|udp)://.*")


def read_settings(environ: Mapping[str, str], fields: Collection[str]) -> Iterator[tuple[str, str, str]]:
    """Yield the variable, the field and the value of every setting; an empty value counts as none."""
    for variable, field in VLLM_VARIABLES.items():
        if environ.get(variable) and field in fields and not environ.get(PREFIX + field.upper()):
            value = environ[variable]
            yield variable, field, value.lower() if field == "log_level" else value
    for field in fields:
        variable = PREFIX + field.upper()
        if (value := environ.get(variable)) and not SERVICE_ADDRESS.fullmatch(value):
            yield variable, field, value


def find_unknown(environ: Mapping[str, str], fields: Collection[str]) -> Iterator[str]:
    """Yield a sentence for each variable with our prefix that names no field."""
    by_flag = {field.upper().replace("_", "-"): PREFIX + field.upper() for field in fields}
    for variable in sorted(environ):
        name = variable.removeprefix(PREFIX)
        if name == variable or name.lower() in fields or SERVICE_LINK.fullmatch(name):
            continue
        guess = suggest(name.replace("_", "-"), by_flag)
        yield f"{variable} names no setting" + (f"; did you mean {by_flag[guess]}?" if guess in by_flag else "")
