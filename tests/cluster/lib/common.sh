# shellcheck shell=bash
# What every part needs: paths, messages, timed phases, locks and safe file writes.

CACHE_HOME=${XDG_CACHE_HOME:-$HOME/.cache}/meshwright
CACHE=$CACHE_HOME/cache      # built once, shared by all clusters, safe to delete when none runs
RUN_ROOT=$CACHE_HOME/run     # one directory per cluster
LOCKS=$CACHE_HOME/locks
DEPS_LOG=$CACHE/deps.log
REPO=$(cd "$CLUSTER_HOME/../.." && pwd)
export CACHE_HOME CACHE RUN_ROOT LOCKS DEPS_LOG REPO

say() { printf '%s\n' "$*" >&2; }

die() {
  printf 'error: %s\n' "$1" >&2
  shift
  local line
  for line in "$@"; do printf '  %s\n' "$line" >&2; done
  exit 1
}

now_ms() { date +%s%3N; }

seconds_since() {
  local ms=$(($(now_ms) - $1))
  printf '%d.%ds' $((ms / 1000)) $((ms % 1000 / 100))
}

# phase TITLE LOG CMD... : one line per phase, with its time. The output goes to LOG; when the
# command fails, the log's last lines are shown, because that is what a person would look up next.
# The command runs in a subshell that keeps `set -e`: never call phase from an if or with ||.
phase() {
  local started
  started=$(now_ms)
  printf '  %-58s ' "$1" >&2
  run_logged "$@"
  printf '%s\n' "$(seconds_since "$started")" >&2
}

# phase_quiet TITLE LOG CMD... : for what is too short to deserve a line when it works.
phase_quiet() { run_logged "$@"; }

run_logged() {
  local title=$1 log=$2 status from
  shift 2
  mkdir -p "$(dirname "$log")"
  printf '\n=== %s: %s\n' "$(date -u +%FT%TZ)" "$title" >>"$log"
  from=$(wc -l <"$log")
  set +e
  (
    set -eE
    trap 'echo "$BASH_COMMAND (${BASH_SOURCE[0]##*/}, line $LINENO) failed with status $?"' ERR
    "$@"
  ) >>"$log" 2>&1
  status=$?
  set -e
  [ "$status" -ne 0 ] || return 0
  say "FAILED: $title"
  say "--- last lines of $log"
  tail -n "+$((from + 1))" "$log" | tail -n 20 | sed 's/^/    /' >&2
  say '---'
  say "What to do: read $log, mend the cause and run the same command again; finished work is kept."
  exit "$status"
}

# with_lock NAME CMD... : runs CMD while holding a lock. The lock goes away with the last process
# that holds it, so a killed script never leaves a stale one; long-lived children must not inherit
# it (start_daemon closes every descriptor).
with_lock() {
  local name=$1 fd status
  shift
  mkdir -p "$LOCKS"
  exec {fd}>"$LOCKS/$name"
  if ! flock -w 2 "$fd"; then
    say "  waiting for another run that holds the lock '$name'"
    flock "$fd"
  fi
  "$@"
  status=$?
  exec {fd}>&-
  return "$status"
}

# write_file PATH [MODE] <stdin : all of the file or none of it.
write_file() {
  local path=$1 mode=${2:-0644} temporary
  mkdir -p "$(dirname "$path")"
  temporary=$(mktemp "$path.XXXXXX")
  cat >"$temporary"
  chmod "$mode" "$temporary"
  mv -f "$temporary" "$path"
}

# wait_for SECONDS WHAT CMD... : polls until CMD succeeds.
wait_for() {
  local limit=$1 what=$2 deadline
  shift 2
  deadline=$(($(now_ms) + limit * 1000))
  until "$@" >/dev/null 2>&1; do
    if [ "$(now_ms)" -ge "$deadline" ]; then
      echo "gave up after ${limit}s waiting for $what"
      return 1
    fi
    sleep 0.1
  done
}

need_root() {
  [ "$(id -u)" -eq 0 ] || die "this needs root: it makes network namespaces and runs a container runtime" \
    "Run it as root, or set KUBECONFIG to a cluster you already have (kind, k3d or a real one)."
}
