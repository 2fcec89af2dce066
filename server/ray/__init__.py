"""A Ray Serve application around the server: an ingress in front of replicas, each with a model and the Quart app.

The ingress holds no model. It reads a request, hashes the pages of its prompt as the replicas' prefix caches do, and
has Ray Serve send it to the replica that probably has them (request_router.py). A request whose replica is lost before
a byte of its answer was sent goes to another one (relay.py).

It is found by the name `jaxserve.ray:app`. The code is here and not in the library, because it serves HTTP with the
server's application, its schemas and its errors, which the library never imports.
"""
