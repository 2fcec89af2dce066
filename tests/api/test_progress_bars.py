"""Progress bars say which phase runs and how far it is."""

from jaxserve.progress_bars import ProgressBars


def test_each_phase_has_one_bar_however_phases_overlap(capsys):
    bars = ProgressBars()
    for phase, done, total in (
        ("import", 0, 0),
        ("load", 1 << 21, 1 << 22),
        ("compile 3 cached", 4, 5),
        ("load", 1 << 22, 1 << 22),
        ("compile 3 cached", 5, 5),
    ):
        bars(phase, done, total)
    assert len(bars._bars) == 3
    bars.close()
    shown = capsys.readouterr().err
    assert "4.19M/4.19M" in shown and "5/5" in shown and "3 cached" in shown


def test_a_bar_that_was_not_needed_to_its_end_is_full_when_all_is_over(capsys):
    bars = ProgressBars()
    bars("load", 1, 4)
    bars.close()
    assert "4/4" in capsys.readouterr().err
