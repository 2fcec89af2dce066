"""The loop: plan, execute, apply. Has never seen a string."""
