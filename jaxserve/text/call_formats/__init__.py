"""The few ways in which models write tool calls down: each reads its calls from a Tape and gives their shape."""
