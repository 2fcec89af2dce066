"""Progress bars for a terminal or a notebook: one for each phase of the start; phases may overlap."""

from tqdm.auto import tqdm


class ProgressBars:
    """A callable that shows progress reports (phase, done, total).

    The first word of a phase is its name, the rest a remark behind its bar. A bar that is short of its total when all
    is over is filled: work that was announced and turned out unnecessary is done, and a notebook would show a failure.
    """

    def __init__(self) -> None:
        self._bars: dict[str, tqdm] = {}

    def __call__(self, phase: str, done: float, total: float) -> None:
        name, _, remark = phase.partition(" ")
        bar = self._bars.get(name)
        if bar is None:
            bytes_like = total > 1 << 20
            bar = tqdm(total=total or None, desc=name, unit="B" if bytes_like else "", unit_scale=bytes_like)
            self._bars[name] = bar
        if total:
            bar.total = total
        bar.set_postfix_str(remark, refresh=False)
        bar.update(done - bar.n)

    def close(self) -> None:
        """Fill and close every bar."""
        for bar in self._bars.values():
            if bar.total and bar.n < bar.total:
                bar.update(bar.total - bar.n)
            bar.close()
        self._bars.clear()
