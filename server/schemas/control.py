"""The body of POST /abort_requests."""

from pydantic import BaseModel, ConfigDict

from server.schemas.common import Strings
from server.schemas.fields import honoured


class AbortRequest(BaseModel):
    """The body of POST /abort_requests."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    request_ids: Strings = honoured(
        "Whole ids: of replies, or as clients have chosen them; several requests may have one.",
        is_required=True,
        test="test_control.py::TestAbort::test_all_requests_with_an_id_are_aborted",
    )
