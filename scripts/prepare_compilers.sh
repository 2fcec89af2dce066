# Sourced by scripts/test: makes the virtual environments in which programs are compiled for accelerators.
#
#   prepare_compiler tpu     .venv-tpu, with libtpu: 213 MB to download, 0.7 GB on the disk
#   prepare_compiler cuda    .venv-cuda, with JAX's CUDA plugin, ptxas, libNVVM and nvdisasm: 256 MB to download, 0.7 GB on the disk
#
# Two, because the compilers do not share a process. Each holds nothing but its compiler and sees what is in .venv,
# which must be there: of the versions of JAX and its plugins no two can differ. A compiler is installed once; a stamp
# says for which JAX, and which packages. ptxas and libNVVM are those of device_checks/compiled.json: sizes are compared
# only with those of the same compiler, and a new release must not end that unseen. nvdisasm only reads what they write.
# Returns 1, and says why, where there is no room or where the compilers do not run; fails where pip does.

COMPILER_GB=3 # of free space that the installation of one needs at most: what is downloaded and what is unpacked

prepare_compiler() {
  local kind=$1 venv=.venv-$1 began=$SECONDS packages stamp
  packages=$(list_compiler_packages "$kind") || fail "the packages of the compiler for $kind are not known"
  stamp=$(pwd; .venv/bin/python -c "import jax, sys; print(jax.__version__, sys.version)"; echo "$packages")
  if [ -f "$venv/installed" ] && [ "$(cat "$venv/installed")" = "$stamp" ]; then return; fi
  if [ "$(uname -sm)" != "Linux x86_64" ]; then
    say "there is no compiler for $kind on $(uname -sm): its programs are not compiled"
    return 1
  fi
  if [ "$(df -Pk . | awk 'NR == 2 {print int($4 / 1048576)}')" -lt $COMPILER_GB ]; then
    say "less than $COMPILER_GB GB are free here, which the compiler for $kind needs: its programs are not compiled"
    return 1
  fi
  say "installing the compiler for $kind into $venv"
  rm -rf "$venv"
  .venv/bin/python -m venv --without-pip "$venv" || fail "could not make $venv"
  .venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
    > "$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/base.pth"
  # shellcheck disable=SC2086 # words
  if ! .venv/bin/python -m pip --python "$venv/bin/python" install -q --disable-pip-version-check --no-input --retries 2 \
    --no-cache-dir --no-deps $packages > "$venv/install.log" 2>&1; then
    tail -n 15 "$venv/install.log" >&2
    fail "pip could not install the compiler for $kind; its last lines are above"
  fi
  printf '%s\n' "$stamp" > "$venv/installed"
  say "installed in $((SECONDS - began)) s"
}

# The packages of JAX's own extra for this kind of accelerator, without what only runs programs.
list_compiler_packages() {
  .venv/bin/python - "$1" "$(dirname "${BASH_SOURCE[0]}")/device_checks/compiled.json" <<'PYTHON'
import json
import sys
from importlib.metadata import requires, version

if sys.argv[1] == "tpu":
    (libtpu,) = (line.split(";")[0] for line in requires("jax") if line.startswith("libtpu"))
    print(libtpu.replace(" ", ""))
else:
    jaxlib = version("jaxlib")
    with open(sys.argv[2]) as file:
        recorded = json.load(file)["versions"]["gpu"]
    nvidia = [f"{name}=={recorded[name]}" for name in ("nvidia-cuda-nvcc", "nvidia-nvvm")]
    print(f"jax-cuda13-plugin=={jaxlib} jax-cuda13-pjrt=={jaxlib}", *nvidia, "nvidia-cuda-nvdisasm")
PYTHON
}
