"""The pages of deployments: commands, files, metrics and messages that they name are those of this repository."""

import re
import shlex
from pathlib import Path

import pytest

from jaxserve.config import ATTENTION_BACKENDS
from server import cli
from tests.deploy.promql import Scrape
from tests.deploy.settings import read_settings
from tests.sources import REPO, modules

DEPLOY = REPO / "scripts" / "deploy"
PAGES = ("README.md", "tpu_vm.md", "gpu_vm.md")
GUIDES = PAGES[1:]
NAMES_OF_OTHERS = {"vllm:gpu_cache_usage_perc"}  # an old name that a picker may ask for
SOURCES = "\n".join(file.read_text(encoding="utf-8") for file in modules(REPO).values())


def read(page: str) -> str:
    return (DEPLOY / page).read_text(encoding="utf-8")


def read_commands(page: str) -> list[list[str]]:
    """Return the words of every command in the shell blocks of a page."""
    blocks = re.findall(r"```sh\n(.*?)```", read(page), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


def read_table(page: str, heading: str) -> list[list[str]]:
    """Return the rows of the table below a heading."""
    part = read(page).split(f"{heading}\n")[1].split("\n## ")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line[:1] == "|"][2:]


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_jaxserve_have_flags_that_exist(page: str) -> None:
    commands = [words for words in read_commands(page) if words[0] == "jaxserve"]
    for _, command, *words in commands:
        assert command in cli.COMMANDS
        if command in ("serve", "warmup"):
            read_settings(words, {})
    assert commands or page not in GUIDES


@pytest.mark.parametrize("page", GUIDES)
def test_flags_for_a_machine_exist(page: str) -> None:
    rows = read_table(page, "## 1. A machine")
    flags = [flag for row in rows for cell in row for flag in re.findall(r"`(--[\w-]+ \w+)`", cell)]
    assert flags
    for flag in flags:
        read_settings(flag.split(), {})


@pytest.mark.parametrize("page", PAGES)
def test_files_that_are_named_exist(page: str) -> None:
    text = read(page)
    for target in re.findall(r"\]\(([^)#:]+)[^):]*\)", text):
        assert (DEPLOY / target).exists(), target
    for path in re.findall(r"\b((?:scripts|tests)/[\w./-]*\w)", text):
        assert (REPO / path).exists() or path.startswith("scripts/deploy/secrets"), path
    for anchor in re.findall(r"README\.md#([\w-]+)", text):
        headings = re.findall(r"^#+ (.+)$", read("README.md"), re.MULTILINE)
        assert anchor in {heading.lower().replace(" ", "-") for heading in headings}, anchor


@pytest.mark.parametrize("page", PAGES)
def test_metrics_that_are_named_are_there(page: str, scrape: Scrape) -> None:
    for name in set(re.findall(r"`((?:vllm:|jaxserve_)\w+)`", read(page))) - NAMES_OF_OTHERS:
        if name not in ("jaxserve_requests_waiting", "jaxserve_cache"):  # the adapter's own, and a volume
            assert scrape.find_faults(name) == []


def test_labels_that_a_gateway_reads_are_there(scrape: Scrape) -> None:
    rows = [row for row in read_table("README.md", "### Gateway API inference extension") if "labels" in row[1]]
    assert len(rows) == 2
    for row in rows:
        name, *labels = re.findall(r"`([\w:]+)`", row[1])
        assert scrape.find_faults(f"sum by({', '.join(labels)}) ({name})") == []


@pytest.mark.parametrize("page", GUIDES)
def test_messages_that_are_quoted_are_ours(page: str) -> None:
    rows = [row for row in read_table(page, "## 5. When it fails") if row[0] in ("jaxserve", "doctor")]
    assert len(rows) > 6
    for _, message, _ in rows:
        quoted = [text for text in re.findall(r"`([^`]+)`", message) if "…" in text]
        fragments = [part.strip() for text in quoted for part in text.split("…") if part.strip()]
        assert fragments and all(fragment in SOURCES for fragment in fragments), message


@pytest.mark.parametrize("page", GUIDES)
def test_backends_and_flags_in_advice_exist(page: str) -> None:
    text = read(page)
    assert set(re.findall(r"--attention-backend (\w+)", text)) <= set(ATTENTION_BACKENDS)
    fields = {name for name in re.findall(r"`(--[a-z-]+)`", text) if name not in ("--accelerator-type", "--version")}
    parser = cli._make_serve_parser()
    known = {option for action in parser._actions for option in action.option_strings}
    assert fields <= known


@pytest.mark.parametrize("page", GUIDES)
def test_a_guide_says_what_has_not_been_measured_and_is_one_page(page: str) -> None:
    beginning = read(page).split("## 1.")[0]
    assert "measured on" in beginning and "arithmetic" in beginning
    assert len(read(page).splitlines()) < 100


def test_the_repository_s_readme_leads_here() -> None:
    text = (REPO / "README.md").read_text(encoding="utf-8")
    for page in PAGES:
        assert f"](scripts/deploy/{page})" in text
    assert all(Path(DEPLOY / page).is_file() for page in PAGES)
