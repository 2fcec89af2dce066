"""POST /v1/responses: from its items to a chat request, and from the answer to its items."""
