"""The exceptions that the library raises on purpose, in one tree.

    JaxServeError
    ├── RequestError       the request cannot be served as it is   400
    │   ├── InvalidParameter   a field has a value that cannot be served
    │   │   └── AdapterNotFound    there is no adapter at a path
    │   ├── PromptTooLong      the prompt leaves no room for an output
    │   └── Unsupported        a feature that this build or this model does not have
    ├── Overloaded         the queue is full: try again later      503, Retry-After
    ├── EngineStopped      no request can be served                503
    ├── GenerationFailed   one request failed, not by its fault    500
    └── StartupError       the model cannot be served              exit code 78
        ├── BadConfig          a setting that cannot work, or two that contradict each other
        ├── UnknownArchitecture   a model, or a key of its config, that is not known
        ├── BadCheckpoint      a missing, surplus, misshapen or unreadable tensor or file
        └── OutOfMemory        the model or its cache does not fit

Each message names the field, the value, and what would be accepted.
"""


class JaxServeError(Exception):
    """Base class of all exceptions that the library raises on purpose.

    Two of them are equal if they say the same, so that outputs with errors can be compared.
    """

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.args == other.args and vars(self) == vars(other)  # type: ignore[union-attr]

    def __hash__(self) -> int:
        return hash((type(self), self.args))

    def _render_traceback_(self) -> list[str]:
        """Return what IPython shows in place of a traceback: the message alone, which says what to change."""
        return [f"{type(self).__name__}: {self}"]


class RequestError(JaxServeError):
    """A request that cannot be served as it is (HTTP 400).

    param   the field at fault, None if there is none
    """

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class InvalidParameter(RequestError):
    """A request whose field has a value that cannot be served."""


class AdapterNotFound(InvalidParameter):
    """A request to load an adapter whose files are not there (HTTP 404)."""


class PromptTooLong(RequestError):
    """A prompt that leaves no room for an output in the model's context length."""


class Unsupported(RequestError):
    """A request for a feature that this build or this model does not have."""


class Overloaded(JaxServeError):
    """A request that the queue has no room for (HTTP 503).

    retry_after_s   seconds after which to try again
    """

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class EngineStopped(JaxServeError):
    """The state in which no request can be served: the engine has stopped or is stopping (HTTP 503)."""


class GenerationFailed(JaxServeError):
    """A request that failed while it ran, by no fault of its own (HTTP 500). Other requests are unaffected."""


class StartupError(JaxServeError):
    """A model that cannot be served, found while it starts. The command line exits with code 78."""


class BadConfig(StartupError):
    """A setting that cannot work, or two that contradict each other."""


class UnknownArchitecture(StartupError):
    """A model, or a key in its config, that is not known."""


class BadCheckpoint(StartupError):
    """A missing, surplus, misshapen or unreadable tensor or file."""


class OutOfMemory(StartupError):
    """A model or a key-value cache that does not fit the device's memory."""
