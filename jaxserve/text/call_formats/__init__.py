"""The few ways in which models write tool calls down: each reads its calls from a TextBuffer and gives their shape."""
