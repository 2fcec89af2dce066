"""scripts/check_reliability: its inputs are the same for a seed, checks count faults, and a short one finds none."""

import json

import pytest

from scripts.reliability_checks import bad_files, command, disconnects
from scripts.reliability_checks.damaged_models import Damage, damage_model, write_sound
from scripts.reliability_checks.forked_starts import StartResult
from scripts.reliability_checks.hostile_inputs import hostile_input
from scripts.reliability_checks.outcome import MAX_FAULTS, Outcome
from tests.models.tiny import write


def test_a_hostile_input_is_made_again_by_its_number():
    inputs = [hostile_input(7, number) for number in range(300)]
    assert inputs == [hostile_input(7, number) for number in range(300)]
    assert len(set(inputs)) > 250
    assert inputs != [hostile_input(8, number) for number in range(300)]


def test_faults_are_counted_and_not_all_kept():
    outcome = Outcome("x")
    for number in range(MAX_FAULTS + 5):
        outcome.expect(number % 2 == 0, f"{number} is odd")
        outcome.expect(False, f"{number}")
    assert outcome.num_faults == MAX_FAULTS + 5 + (MAX_FAULTS + 5) // 2
    assert len(outcome.faults) == MAX_FAULTS


@pytest.mark.parametrize(("is_good", "code"), [(True, 0), (False, 1)])
def test_a_fault_is_in_the_figures_and_the_exit_code(monkeypatch, tmp_path, is_good, code):
    class Check:
        @staticmethod
        def run(share, model, folder, seed):
            assert (model / "config.json").is_file() and folder.is_dir()
            outcome = Outcome("kills", {"share": share, "seed": seed})
            outcome.expect(is_good, "it was bad")
            return outcome

    monkeypatch.setattr(command, "import_module", lambda name: Check)
    words = ["kills", "--share", "0.5", "--seed", "3", "--json", str(tmp_path / "figures.json")]
    assert command.main(words) == code
    [row] = json.loads((tmp_path / "figures.json").read_text())
    assert row["figures"] == {"share": 0.5, "seed": 3}
    assert row["faults"] == ([] if is_good else ["it was bad"])


def test_a_check_that_is_not_there_is_refused_with_those_that_are(capsys):
    with pytest.raises(SystemExit):
        command.main(["soap"])
    assert "there is no check 'soap'; there are hostile-inputs" in capsys.readouterr().err


def test_of_clients_that_leave_nothing_is_left(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    write(model, "llama", seed=3)
    outcome = disconnects.run(0.01, model, tmp_path, seed=1)
    assert outcome.faults == []
    assert sum(outcome.figures["left"].values()) == 100


def test_a_damaged_model_is_made_again_by_its_number(tmp_path):
    sound = write_sound(write(tmp_path / "model", "llama", seed=3), tmp_path)
    words = [[damage_model(sound, tmp_path / "damaged", 7, number).words for number in range(50)] for _ in range(2)]
    assert words[0] == words[1] and len(set(words[0])) > 40


@pytest.mark.parametrize(
    ("result", "faults"),
    [
        (StartResult(78, "jaxserve: model.safetensors is cut.\n", 0.1, 10), []),
        (StartResult(0, "", 0.1, 10), ["it would start"]),
        (StartResult(78, "jaxserve: it is cut.\n", 0.1, 10), ["no file is named: 'it is cut.'"]),
        (StartResult(78, "jaxserve: model.safetensors\nis cut.\n", 0.1, 10), ["no file is named"]),
        (StartResult(-9, "", 0.1, 99), ["it ended with -9: ", "it took"]),
        (StartResult(1, "Traceback (most recent call last):", 0.1, 10), ["a traceback"]),
    ],
)
def test_what_a_damaged_model_may_not_do(tmp_path, result, faults):
    damage = Damage(tmp_path, "model.safetensors", "it is cut", is_fatal=True)
    found = bad_files.find_faults(damage, result, limit_bytes=50)
    assert len(found) == len(faults) and all(map(str.startswith, found, faults))


def test_of_starts_with_damaged_models_none_is_a_fault(tmp_path):
    outcome = bad_files.run(0.01, write(tmp_path / "model", "llama", seed=3), tmp_path, seed=1)
    assert outcome.faults == []
    assert outcome.figures["models"] == 20 and set(outcome.figures["starts"]) == {"exit 78", "would start"}
