"""The body of POST /invocations, as far as it tells which API is meant."""

from typing import Any

from pydantic import BaseModel, ConfigDict

from server.schemas.fields import honoured

_TEST = "test_invocations.py::test_the_body_tells_which_api_is_meant"


class InvocationRequest(BaseModel):
    """The body of POST /invocations: that of one of three APIs, with all of its fields."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    messages: list[Any] | None = honoured("Answered as by /v1/chat/completions.", note="comes first", test=_TEST)
    prompt: Any = honoured("Answered as by /v1/completions.", note="without messages", test=_TEST)
    input: Any = honoured("Answered as by /v1/responses.", note="without messages and prompt", test=_TEST)
