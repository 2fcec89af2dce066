"""Model families: values that describe a network, modules that compute it, and readers of published configs."""
