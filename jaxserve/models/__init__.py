"""What a network is: values that describe it, modules that compute it, translators that read others' words for it."""
