"""From a model's name to placed arrays: fetch it, open it, check it, load it."""
