"""The name of the Ray Serve application: `serve run jaxserve.ray:app model=MODEL max_replicas=4`.

The application serves HTTP, so its code is in server/ray. This module is no part of the library either: it stands above
the server, nothing imports it, and it needs the extra `ray`.
"""

from server.ray.application import app, build, make_engine_options
from server.ray.settings import RaySettings, ReplicaConfig, read_settings

__all__ = ["RaySettings", "ReplicaConfig", "app", "build", "make_engine_options", "read_settings"]
