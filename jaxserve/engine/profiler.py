"""A profiler for some of the engine's steps, by means of JAX's profiler."""

import logging
from pathlib import Path

import jax

from jaxserve.config import EngineConfig, cache_dir

log = logging.getLogger(__name__)


class StepProfiler:
    """A profiler of the steps first to last - 1, counted from 0, which writes a trace into a directory.

    Blocks, attention, feed-forward blocks and sampling have names in the trace (`jax.named_scope`), and each step is
    annotated with its number. TensorBoard, xprof and Perfetto show it.
    """

    def __init__(self, first: int, last: int, directory: Path) -> None:
        self._first, self._last, self._directory = first, last, directory
        self._num_steps = 0
        self._is_tracing = False

    def before_step(self) -> None:
        """Begin or end the trace if this step is the first, or the first that is not traced any more.

        A trace that cannot be written is logged as a warning.
        """
        number, self._num_steps = self._num_steps, self._num_steps + 1
        if number == self._first:
            try:
                self._directory.mkdir(parents=True, exist_ok=True)
                jax.profiler.start_trace(str(self._directory))
            except (OSError, RuntimeError) as error:  # RuntimeError: whatever XLA raises
                log.warning("steps are not profiled, a trace cannot be written to %s: %s", self._directory, error)
            else:
                self._is_tracing = True
        elif number == self._last:
            self.close()

    @property
    def is_over(self) -> bool:
        """Whether no later step will be traced."""
        return self._num_steps > self._last

    def close(self) -> None:
        """End the trace, if one is being written, and log where it is, or why it could not be written."""
        if not self._is_tracing:
            return
        self._is_tracing = False
        try:
            jax.profiler.stop_trace()
        except (OSError, RuntimeError) as error:
            log.warning("the profile of steps %d on cannot be written: %s", self._first, error)
        else:
            last = min(self._num_steps, self._last) - 1
            log.warning("profile of steps %d to %d: %s", self._first, last, self._directory)


def make_profiler(config: EngineConfig) -> StepProfiler | None:
    """Return the profiler that the configuration asks for, or None."""
    if config.profiled_steps is None:
        return None
    directory = Path(config.profile_dir) if config.profile_dir else cache_dir("profiles")
    return StepProfiler(*config.profiled_steps, directory)
