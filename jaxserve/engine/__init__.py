"""The engine: scheduling, batches, compiled programs, and the step: plan, execute, apply. Token ids only, no text."""
