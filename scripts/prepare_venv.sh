# Sourced by scripts/serve and scripts/test: makes sure that .venv holds this checkout and what it depends on.
#
#   prepare_venv base    what the server needs
#   prepare_venv test    the same, and the extras test, notebook, otel and ray
#
# It costs milliseconds when nothing changed. A stamp, .venv/installed-KIND, is written after an install has
# succeeded and holds all that the install depended on; anything else there, or nothing, means: install (again).
# Written for bash 3.2 (macOS) and newer.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
VENV=.venv
INSTALL_LOG=$VENV/install.log

say() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; }

fail() {
  say "$@"
  exit 1
}

prepare_venv() {
  local kind=$1 extras=""
  [ "$kind" = test ] && extras="[test,notebook,otel,ray]"
  is_installed "$kind" && return
  local python
  python=$(find_python) || exit 1
  lock "$python"
  if ! is_installed "$kind"; then # whoever held the lock may have done it for us
    make_venv "$python"
    install_project "$extras"
    for done_kind in base "$kind"; do wanted_stamp > "$VENV/installed-$done_kind"; done
  fi
  exec 9<&- # unlock
}

# All that an install depends on: where the checkout lies (scripts in .venv hold the path) and what it asks for.
wanted_stamp() {
  pwd
  cat pyproject.toml
}

is_installed() { [ -f "$VENV/installed-$1" ] && wanted_stamp | cmp -s - "$VENV/installed-$1"; }

find_python() {
  local candidate without_venv=""
  for candidate in python3.11 python3.12 python3.13 python3 python; do
    "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2> /dev/null || continue
    if "$candidate" -c 'import ensurepip, venv' 2> /dev/null; then
      command -v "$candidate"
      return
    fi
    without_venv=${without_venv:-$candidate}
  done
  if [ -n "$without_venv" ]; then
    fail "$without_venv cannot make virtual environments; on Debian and Ubuntu: apt-get install $without_venv-venv"
  fi
  fail "no Python 3.11, 3.12 or 3.13 on the PATH (looked for python3.11, python3.12, python3.13, python3);" \
    "install one, for example: apt-get install python3 python3-venv"
}

# One install at a time. The lock hangs on this very file, opened as descriptor 9, and goes when that is closed.
lock() {
  exec 9< scripts/prepare_venv.sh
  "$1" - <<'PYTHON' || fail "could not lock scripts/prepare_venv.sh"
import fcntl, sys
try:
    fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("waiting for another install in this checkout to end …", file=sys.stderr)
    fcntl.flock(9, fcntl.LOCK_EX)
PYTHON
}

make_venv() {
  if "$VENV/bin/python" -c 'import pip' 2> /dev/null; then return; fi
  say "making $VENV with $("$1" --version) ($1)"
  rm -rf "$VENV"
  "$1" -m venv "$VENV" || fail "$1 could not make $VENV; is the disk full, or the folder not yours?"
}

install_project() {
  local began=$SECONDS
  rm -f "$VENV"/installed-*
  say "installing jaxserve$1 and what it depends on into $VENV (first time: some minutes)"
  if ! "$VENV/bin/python" -m pip install --disable-pip-version-check --no-input --retries 2 -e ".$1" 2>&1 |
    tee "$INSTALL_LOG" | show_last_line; then # the callers have set pipefail
    explain_failed_install
  fi
  say "installed in $((SECONDS - began)) s"
}

# On a terminal: pip's latest line, always in the same place. Elsewhere: nothing, the log has it all.
show_last_line() {
  if [ ! -t 2 ]; then
    cat > /dev/null
    return
  fi
  local line width
  width=$(tput cols 2> /dev/null || echo 80)
  while IFS= read -r line; do printf '\r\033[K  %s' "${line:0:width-3}" >&2; done
  printf '\r\033[K' >&2
}

explain_failed_install() {
  if grep -qiE 'name resolution|NewConnectionError|Network is unreachable|ConnectTimeout|Connection refused|ProxyError' "$INSTALL_LOG"; then
    fail "pip reaches no package index. Connect this machine to a network, or tell pip of your proxy or mirror" \
      "(pip config set global.index-url …), and start again. pip's own words: $INSTALL_LOG"
  fi
  if grep -qi 'No space left' "$INSTALL_LOG"; then fail "the disk is full; the installation needs about 2 GB (tests: 4 GB)."; fi
  tail -n 15 "$INSTALL_LOG" >&2
  fail "pip could not install the project; its last lines are above, all of them in $INSTALL_LOG"
}
