"""Progress bars for people at a terminal or in a notebook: one a phase, however phases overlap."""

from tqdm.auto import tqdm


class ProgressBars:
    """Shows (phase, done, total) as the start reports it; a phase's first word is its name, the rest a remark.

    A bar that is still short of its end when all is over is filled: what was announced and not needed is done as well,
    and a notebook would show it as failed.
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
        """Ends every bar as done."""
        for bar in self._bars.values():
            if bar.total and bar.n < bar.total:
                bar.update(bar.total - bar.n)
            bar.close()
        self._bars.clear()
