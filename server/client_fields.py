"""Names of fields in errors: the library names its own parameters, and the client has to read its request's fields."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from jaxserve import PromptTooLong, RequestError


def rename_fields(error: Exception, names: Mapping[str, str]) -> Exception:
    """Return the error; one of the library about one of its parameters then names the client's field.

    names: the library's name → the client's. An error about the length of a prompt is about its field "prompt".
    """
    if not isinstance(error, RequestError):
        return error
    param = error.param or ("prompt" if isinstance(error, PromptTooLong) else "")
    name = names.get(param, param)
    if not param or name == error.param:
        return error
    message = str(error)
    return type(error)(name + message.removeprefix(param) if message.startswith(param) else message, name)


@contextmanager
def client_fields(names: Mapping[str, str]) -> Iterator[None]:
    """Rename the fields of the library's errors. names: as for `rename_fields`."""
    try:
        yield
    except RequestError as error:
        raise rename_fields(error, names) from None
