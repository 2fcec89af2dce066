"""Runs the checks in two_devices/ in a process of their own whose CPU counts as two devices."""

import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent / "two_devices"
# Programs are compiled once and run for a few steps: optimising them would take longer than it saves.
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


def test_on_two_devices():
    environ = os.environ | {"JAX_NUM_CPU_DEVICES": "2", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": QUICK}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "python_files=check_*.py"]
    done = subprocess.run([*command, FOLDER], env=environ, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
