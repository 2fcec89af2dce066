"""POST /v1/messages: from Anthropic's content blocks to a chat request, and from the answer to content blocks."""
