"""Runs the checks in eight_devices/, each in a process of its own whose CPU counts as eight devices."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "eight_devices"
# Programs are compiled once and run for a few steps: optimising them would take longer than it saves.
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


@pytest.mark.parametrize("check", sorted(path.name for path in FOLDER.glob("check_*.py")))
def test_on_eight_devices(check):
    environ = os.environ | {"JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": QUICK}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "python_files=check_*.py"]
    done = subprocess.run([*command, FOLDER / check], env=environ, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
