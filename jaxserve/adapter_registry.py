"""AdapterRegistry: the adapters that requests may name, read from their files at the start or while the model runs."""

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jaxserve.config import EngineConfig, LoRAModule
from jaxserve.errors import AdapterNotFound, InvalidParameter, StartupError, Unsupported
from jaxserve.layers.adapter import Adapter
from jaxserve.layers.param_spec import ParamPath, ParamSpec
from jaxserve.model_files import blame_model_files
from jaxserve.weights.peft import CONFIG_FILE, read_adapter

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoadedAdapter:
    """An adapter that requests may name.

    module      Its name and place, as given.
    adapter     The adapter.
    created_s   The Unix time at which it was read.
    """

    module: LoRAModule
    adapter: Adapter
    created_s: int


class AdapterRegistry:
    """The adapters by name. Its methods are safe in any thread; those that read files block.

    A request holds its adapter itself, so one that is removed is gone when its last request has ended.
    """

    def __init__(self, config: EngineConfig, params: Mapping[ParamPath, ParamSpec]) -> None:
        """Read the adapters of the configuration.

        params   The weights of the model.

        Raises StartupError, naming the adapter, if one cannot be served.
        """
        self._is_enabled, self._max_rank, self._params = config.has_adapters, config.max_lora_rank, params
        self._lock = threading.Lock()
        self._loaded: dict[str, LoadedAdapter] = {module.name: self._read(module) for module in config.adapters}

    def list_loaded(self) -> tuple[LoadedAdapter, ...]:
        """Return the adapters in the order in which they were loaded."""
        return tuple(self._loaded.values())

    def find(self, name: str) -> Adapter | None:
        """Return the adapter of this name, or None."""
        loaded = self._loaded.get(name)
        return None if loaded is None else loaded.adapter

    def load(self, name: str, path: str, *, replace: bool = False) -> Adapter:
        """Read an adapter, which requests may name from then on, and return it.

        replace   One of the same name is replaced; requests that run keep it.

        Raises InvalidParameter about lora_name if the name is taken, about lora_path if its files cannot be served,
        AdapterNotFound if there are none, Unsupported if adapters are not enabled.
        """
        if not self._is_enabled:
            raise Unsupported("Adapters are not enabled; start with --enable-lora.", "lora_name")
        self._check_free(name, replace)
        if not (Path(path) / CONFIG_FILE).is_file():
            raise AdapterNotFound(f"There is no adapter at {path[:200]!r}, no {CONFIG_FILE}.", "lora_path")
        try:
            with blame_model_files(f"the adapter of {path}"):
                loaded = self._read(LoRAModule(name, path))
        except StartupError as error:
            raise InvalidParameter(_without_paths(str(error), path), "lora_path") from None
        with self._lock:
            self._check_free(name, replace)
            self._loaded = {**self._loaded, name: loaded}
        log.info("adapter %.200r is loaded, of rank %d", name, loaded.adapter.rank)
        return loaded.adapter

    def unload(self, name: str) -> bool:
        """Remove an adapter; return whether there was one. Requests that run keep it."""
        with self._lock:
            was_loaded = name in self._loaded
            self._loaded = {each: loaded for each, loaded in self._loaded.items() if each != name}
        return was_loaded

    def get_or_load(self, name: str, path: str) -> Adapter:
        """Return the adapter of this name and place, and read it if it is not the one of this name.

        Raises as `load`.
        """
        loaded = self._loaded.get(name)
        if loaded is not None and loaded.module.path == path:
            return loaded.adapter
        return self.load(name, path, replace=True)  # another thread may replace it before it is looked up

    def _check_free(self, name: str, replace: bool) -> None:
        if name in self._loaded and not replace:
            raise InvalidParameter(
                f"The adapter {name[:200]!r} is loaded already; set load_inplace to replace it.", "lora_name"
            )

    def _read(self, module: LoRAModule) -> LoadedAdapter:
        adapter = read_adapter(Path(module.path), module.name, self._params, self._max_rank)
        return LoadedAdapter(module, adapter, int(time.time()))


def _without_paths(message: str, path: str) -> str:
    """Return a message without the directory of its files, which clients need not know."""
    directory = str(Path(path))
    return message.replace(f"{directory}/", "").replace(directory, "lora_path")
