"""Every exception the library raises on purpose, in one tree.

    JaxServeError
    ├── RequestError       the caller can change the request     400
    │   ├── InvalidParameter   a field has a value that cannot be served
    │   ├── PromptTooLong      the prompt leaves no room for an answer
    │   └── Unsupported        a feature this build or this model does not have
    ├── Overloaded         the caller can come back later        503, Retry-After
    ├── EngineStopped      nobody can be served now              503
    ├── GenerationFailed   this one answer broke; not the caller's doing   500
    └── StartupError       happens before there is a server      exit code 78
        ├── BadConfig          a setting that cannot work, or two that contradict
        ├── UnknownArchitecture   a model, or a key of its config, we do not know
        ├── BadCheckpoint      a missing, surplus, misshapen or unreadable tensor or file
        └── OutOfMemory        the model or its cache does not fit

Each message names the field, the value, and what would do.
"""


class JaxServeError(Exception):
    """The root: catching it catches every error the library raises on purpose."""

    def _render_traceback_(self) -> list[str]:
        """Return what IPython shows in place of a traceback: the message says what to do; our frames would not."""
        return [f"{type(self).__name__}: {self}"]


class RequestError(JaxServeError):
    """The caller can change the request. `param` is the field at fault, when there is one."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class InvalidParameter(RequestError):
    """A field has a value that cannot be served."""


class PromptTooLong(RequestError):
    """The prompt leaves no room for an answer."""


class Unsupported(RequestError):
    """A feature that this build or this model does not have."""


class Overloaded(JaxServeError):
    """The caller can come back later; `retry_after_s` says when to try."""

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class EngineStopped(JaxServeError):
    """Nobody can be served: the engine has ended, or is ending."""


class GenerationFailed(JaxServeError):
    """This one answer broke while it was made; its neighbours are unharmed."""


class StartupError(JaxServeError):
    """Happens before there is anything to serve; the command line turns it into exit code 78."""


class BadConfig(StartupError):
    """A setting that cannot work, or two that contradict each other."""


class UnknownArchitecture(StartupError):
    """A model, or a key in its config, that we do not know."""


class BadCheckpoint(StartupError):
    """A missing, surplus, misshapen or unreadable tensor or file."""


class OutOfMemory(StartupError):
    """The model or its key-value cache does not fit."""
