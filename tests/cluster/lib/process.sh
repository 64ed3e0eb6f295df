# shellcheck shell=bash
# Daemons: started once, recognised for sure before they are trusted or killed.

# daemon_pid PART : prints the pid if the recorded process is alive, is the very one that was started
# and has become the program that it was to become.
daemon_pid() {
  local pid started boot now program
  read -r pid started boot 2>/dev/null <"$RUN/pids/$1" || return 1
  [ "$boot" = "$(cat /proc/sys/kernel/random/boot_id)" ] || return 1
  now=$(awk '{sub(/^.*\) /, ""); if ($1 != "Z") print $20}' "/proc/$pid/stat" 2>/dev/null) || return 1
  [ "$now" = "$started" ] || return 1
  program=$(head -n 1 "$RUN/pids/$1.command" 2>/dev/null) || return 1
  tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF -- "${program%% *}" || return 1
  echo "$pid"
}

# start_daemon PART CMD... : does nothing when it already runs with the same command line.
start_daemon() {
  local part=$1 pid mountns=-
  shift
  mkdir -p "$RUN/pids" "$RUN/logs"
  [ -e "$MOUNTNS" ] && [ -e "$RUN/ns/ready" ] && mountns=$MOUNTNS
  if pid=$(daemon_pid "$part"); then
    [ "$(cat "$RUN/pids/$part.command" 2>/dev/null)" = "$*" ] && return 0
    echo "$part runs with other arguments; restarting it"
    stop_daemon "$part"
  fi
  rm -f "$RUN/pids/$part"
  # A clean environment: the caller's proxy settings, for one, would break calls to webhooks.
  setsid env -i PATH="$DAEMON_PATH" HOME=/root \
    "$CLUSTER_HOME/lib/launch" "$RUN/pids/$part" "$(daemon_cgroups)" "$NETNS" "$mountns" "$@" \
    </dev/null >>"$RUN/logs/$part.log" 2>&1 &
  wait_for 10 "$part to start" daemon_pid "$part"
}

stop_daemon() {
  local part=$1 pid
  if pid=$(daemon_pid "$part"); then
    kill -TERM "$pid" 2>/dev/null || true
    wait_for "${2:-10}" "$part to stop" daemon_gone "$part" || kill -KILL "$pid" 2>/dev/null || true
    wait_for 5 "$part to end" daemon_gone "$part"
  fi
  rm -f "$RUN/pids/$part" "$RUN/pids/$part.command"
}

daemon_gone() { ! daemon_pid "$1" >/dev/null; }

# daemons_alive PART... : a daemon that died right away is better reported than waited for.
daemons_alive() {
  local part
  for part in "$@"; do
    daemon_pid "$part" >/dev/null && continue
    echo "$part has stopped; the end of $RUN/logs/$part.log:"
    tail -n 15 "$RUN/logs/$part.log"
    return 1
  done
}

# wait_ready SECONDS WHAT PARTS CMD... : like wait_for, but gives up at once when a part has died.
wait_ready() {
  local limit=$1 what=$2 parts=$3 deadline
  shift 3
  deadline=$(($(now_ms) + limit * 1000))
  until "$@" >/dev/null 2>&1; do
    # shellcheck disable=SC2086
    daemons_alive $parts || return 1
    if [ "$(now_ms)" -ge "$deadline" ]; then
      echo "gave up after ${limit}s waiting for $what"
      # shellcheck disable=SC2086
      for part in $parts; do
        echo "the end of $RUN/logs/$part.log:"
        tail -n 8 "$RUN/logs/$part.log"
      done
      return 1
    fi
    sleep 0.1
  done
}

# The cluster's processes, containers included, live below one cgroup: that is how `down` finds all of
# them, also those whose parent was killed, and nothing else.
CGROUP_ROOT=/sys/fs/cgroup

cgroup_hierarchies() {
  if [ "$(stat -fc %T $CGROUP_ROOT)" = cgroup2fs ]; then
    echo $CGROUP_ROOT
  else
    find $CGROUP_ROOT -mindepth 1 -maxdepth 1 -type d ! -name unified
  fi
}

make_cgroups() {
  local hierarchy directory file
  while read -r hierarchy; do
    for directory in "$hierarchy/meshwright" "$hierarchy/meshwright/$NAME" "$hierarchy/meshwright/$NAME/daemons"; do
      mkdir -p "$directory" || {
        echo "cannot make the cgroup $directory: is this a container without its own cgroups?"
        return 1
      }
      # A new cpuset is empty, and nothing can join an empty one.
      for file in cpuset.cpus cpuset.mems; do
        if [ -e "$directory/$file" ] && [ -z "$(cat "$directory/$file")" ]; then
          cat "$directory/../$file" >"$directory/$file" || true
        fi
      done
    done
  done < <(cgroup_hierarchies)
}

set_cgroup_paths() {
  local hierarchy=$CGROUP_ROOT
  [ -d $CGROUP_ROOT/pids ] && hierarchy=$CGROUP_ROOT/pids
  CGROUP_TREE=$hierarchy/meshwright/$NAME
}

daemon_cgroups() { cgroup_hierarchies | sed "s|\$|/meshwright/$NAME/daemons|"; }

cluster_pids() {
  [ -d "$CGROUP_TREE" ] || return 0
  find "$CGROUP_TREE" -name cgroup.procs -exec cat {} + 2>/dev/null | sort -un
}

kill_cluster_pids() {
  local attempt pids
  for attempt in $(seq 1 50); do
    mapfile -t pids < <(cluster_pids)
    [ ${#pids[@]} -gt 0 ] || return 0
    [ "$attempt" -lt 2 ] || sleep 0.1
    kill -KILL "${pids[@]}" 2>/dev/null || true
  done
  echo "some processes do not end: $(cluster_pids | tr '\n' ' ')"
  return 1
}

remove_cgroups() {
  local hierarchy
  while read -r hierarchy; do
    [ -d "$hierarchy/meshwright/$NAME" ] || continue
    find "$hierarchy/meshwright/$NAME" -depth -type d -exec rmdir {} + 2>/dev/null || true
  done < <(cgroup_hierarchies)
}
