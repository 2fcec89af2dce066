"""A reply that is read while it is made."""

import json
from typing import Any

from tests.server.api import CHAT, Api

CHAT_PATH = "/v1/chat/completions"


class Live:
    """An open request, by default for a chat stream; as a context it is the connection."""

    def __init__(self, api: Api, path: str = CHAT_PATH, body: Any = CHAT, **fields: Any) -> None:
        self.api, self.path, self.fields = api, path, {**body, "stream": True, **fields}

    async def __aenter__(self) -> Any:
        headers = {"Content-Type": "application/json"}
        self.connection = self.api.client.request(self.path, method="POST", headers=headers)
        await self.connection.__aenter__()
        await self.connection.send(json.dumps(self.fields).encode())
        await self.connection.send_complete()
        return self.connection

    async def __aexit__(self, *error: Any) -> None:
        await self.connection.__aexit__(*error)
