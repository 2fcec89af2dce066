"""Progress bars say which phase runs and how far it is."""

from jaxserve.bars import Bars


def test_each_phase_has_a_bar_of_its_own(capsys):
    bars = Bars()
    for phase, done, total in (("load", 1 << 21, 1 << 22), ("load", 1 << 22, 1 << 22), ("compile 3 cached", 5, 5)):
        bars(phase, done, total)
    bars.close()
    shown = capsys.readouterr().err
    assert "load" in shown and "4.19M/4.19M" in shown
    assert "compile" in shown and "5/5" in shown and "3 cached" in shown
