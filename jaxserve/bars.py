"""Progress bars for people at a terminal or in a notebook: one a phase, gone from the code's way."""

from tqdm.auto import tqdm


class Bars:
    """Hears (phase, done, total) as the start reports it; a phase's first word is its name, the rest a remark."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None
        self._phase = ""

    def __call__(self, phase: str, done: float, total: float) -> None:
        name, _, remark = phase.partition(" ")
        if name != self._phase:
            self.close()
            bytes_like = total > 1 << 20
            self._bar = tqdm(total=total, desc=name, unit="B" if bytes_like else "", unit_scale=bytes_like, leave=True)
            self._phase = name
        assert self._bar is not None
        self._bar.set_postfix_str(remark, refresh=False)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar, self._phase = None, ""
