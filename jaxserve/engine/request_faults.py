"""The boundary around the work on the host for one request: what raises there ends that request and no other."""

import logging
import traceback
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from jaxserve.engine.request import Request
from jaxserve.engine.request_table import RequestTable
from jaxserve.errors import GenerationFailed
from jaxserve.outputs import FinishReason, TokenOutput

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


class RequestFaults:
    """Boundary that ends a request whose own work raises, and keeps its last output until it is taken.

    A request whose work was interrupted anywhere can be ended: nothing of its state is needed for that but its pages
    and rows.
    """

    def __init__(self, requests: RequestTable) -> None:
        self._requests = requests
        self._outputs: list[TokenOutput] = []

    @property
    def has_outputs(self) -> bool:
        """Whether outputs are to be taken."""
        return bool(self._outputs)

    def run(self, request: Request, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Do some work for one request and return its result; if it raises, end the request and return None."""
        try:
            return work(*args, **kwargs)
        except Exception as error:
            self.end(request, error)
            return None

    def end(self, request: Request, error: Exception) -> None:
        """End a request whose work has raised. Its pages and rows are free afterwards.

        The log gets the exception's type and the places in the code, but not its message, which may quote a prompt.
        """
        frames = "".join(traceback.format_tb(error.__traceback__))
        log.error("request %d has failed with %s\n%s", request.request_id, type(error).__name__, frames)
        self._requests.stats.on_request_fault()
        failure = GenerationFailed("This request failed inside the server; it has ended, others are not affected.")
        self.end_with(request, failure)

    def end_with(self, request: Request, error: Exception) -> None:
        """End a request with this error for its client."""
        self._outputs.append(TokenOutput(request.request_id, finish_reason=FinishReason.ERROR, error=error))
        self._requests.fail(request)

    def take_outputs(self) -> list[TokenOutput]:
        """Return the last outputs of the requests that have ended here since the last call."""
        outputs, self._outputs = self._outputs, []
        return outputs
