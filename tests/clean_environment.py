"""A Python environment with what an install of jaxserve brings, and nothing of the test extra.

Made of symbolic links to the packages that are installed here: those that pyproject.toml declares, and what they need
in turn. It costs a second; a real install would cost minutes.
"""

import os
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

REPO = Path(__file__).resolve().parents[1]


def runtime_distributions() -> set[str]:
    """Return the distributions that `pip install jaxserve` brings, as far as they are installed here."""
    wanted = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["dependencies"]
    found: set[str] = set()
    queue = [Requirement(text) for text in wanted]
    while queue:
        requirement = queue.pop()
        extras = {"", *requirement.extras}
        if requirement.name in found or not any(
            requirement.marker is None or requirement.marker.evaluate({"extra": extra}) for extra in extras
        ):
            continue
        try:
            distribution = metadata.distribution(requirement.name)
        except metadata.PackageNotFoundError:
            continue
        found.add(requirement.name)
        for text in distribution.requires or []:
            needed = Requirement(text)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                needed.marker = None
                queue.append(needed)
    return found


def link_packages(directory: Path) -> Path:
    """Fill `directory` with links to those distributions and to the wheel's two packages."""
    for name in runtime_distributions():
        for file in metadata.distribution(name).files or []:
            top = file.parts[0]
            source = Path(str(metadata.distribution(name).locate_file(top)))
            if top not in ("..", "__pycache__") and source.exists() and not (directory / top).exists():
                (directory / top).symlink_to(source)
    for package in ("jaxserve", "server"):
        (directory / package).symlink_to(REPO / package)
    return directory


def run(site: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run this Python with the packages of `site` alone, and the settings in its environment."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "HF_"))}
    return subprocess.run(
        [sys.executable, "-S", *arguments],
        env=environment | {"PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1"} | settings,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
