# shellcheck shell=bash
# What a person types.

verb_deps() {
  local tier=all
  [ -z "$TIER" ] || tier=$TIER
  need_root
  need_pins "${KUBERNETES_GIVEN:=$(kubernetes_newest)}"
  set_kubernetes "$KUBERNETES_GIVEN"
  prepare "$tier"
  say "ready: $CACHE"
}

verb_up() {
  local started
  started=$(now_ms)
  if external_kubeconfig; then
    use_external
    return
  fi
  need_root
  [ "$(cat "$RUN/tier" 2>/dev/null)" != node ] || TIER=node # a node is never taken away by `up`
  TIER=${TIER:-api}
  change_kubernetes
  prepare "$TIER"
  with_lock "cluster-$NAME" up_locked
  say "cluster $NAME is up (Kubernetes $KUBERNETES_VERSION, tier $TIER, $(seconds_since "$started")). Use it with:"
  say "  eval \"\$($CLUSTER_HOME/cluster env --name $NAME)\""
}

up_locked() {
  mkdir -p "$RUN/logs"
  # Before the index: a cluster with an index and no version is one of the time before versions, which were the oldest.
  echo "$KUBERNETES_VERSION" | write_file "$RUN/kubernetes"
  with_lock indexes allocate_index || exit 1
  set_cluster "$NAME"
  echo "$TIER" | write_file "$RUN/tier"
  phase "start the API ($SERVER)" "$RUN/logs/up.log" start_api
  [ "$TIER" = api ] || phase "start the node" "$RUN/logs/up.log" start_node
}

use_external() {
  local version
  version=$(kubectl --request-timeout=10s version -o json 2>/dev/null | jq -r '.serverVersion.gitVersion // empty') || true
  [ -n "$version" ] || die "KUBECONFIG=$KUBECONFIG is set, but its cluster does not answer" \
    "Start that cluster, or unset KUBECONFIG to have a local one made."
  say "using the cluster of KUBECONFIG=$KUBECONFIG (Kubernetes $version, context $(kubectl config current-context))"
}

verb_down() {
  if external_kubeconfig; then
    say "KUBECONFIG names a cluster that is not ours; nothing to stop (meshwright uninstall takes Meshwright out of it)"
    return 0
  fi
  need_root
  if [ ! -d "$RUN" ]; then
    say "there is no cluster $NAME"
    return 0
  fi
  with_lock "cluster-$NAME" down_locked
}

down_locked() {
  phase "stop cluster $NAME" "$RUN/logs/down.log" stop_cluster
  if [ -n "$PURGE" ]; then
    # The index goes last: while it is there, nobody else gets this cluster's network.
    find "$RUN" -mindepth 1 -maxdepth 1 ! -name index -exec rm -rf {} +
    rm -rf "$RUN"
  fi
}

stop_cluster() {
  local part
  stop_node
  for part in kube-controller-manager kube-apiserver etcd; do stop_daemon "$part"; done
  kill_cluster_pids
  remove_node_mounts
  remove_network
  remove_cgroups
}

verb_status() {
  local name
  if [ -n "$NAME_GIVEN" ]; then
    [ -e "$RUN/index" ] || die "there is no cluster $NAME" "known: $(known_names | tr '\n' ' ')"
    if [ "$OUTPUT" = json ]; then status_json; else status_text; fi
    return
  fi
  for name in $(known_names); do
    set_cluster "$name"
    if [ "$OUTPUT" = json ]; then status_json; else status_text; fi
  done
}

verb_env() {
  if external_kubeconfig; then
    printf 'export KUBECONFIG=%q\n' "$KUBECONFIG"
    return
  fi
  need_cluster
  printf 'export KUBECONFIG=%q\n' "$RUN/kubeconfig"
  # The cluster's own kubectl, for programs; and for people who have none of their own.
  printf 'export MESHWRIGHT_KUBECTL=%q\n' "$KUBERNETES_BIN/kubectl"
  command -v kubectl >/dev/null || printf 'export PATH="$PATH":%q\n' "$KUBERNETES_BIN"
  # Where the cluster reaches a daemon or webhook that runs on this machine.
  printf 'export MESHWRIGHT_CLUSTER=%q MESHWRIGHT_HOST_IP=%q\n' "$NAME" "$HOST_IP"
}

need_cluster() {
  [ -e "$RUN/kubeconfig" ] || die "there is no cluster $NAME" "Start it with: $CLUSTER_HOME/cluster up --name $NAME"
}

verb_logs() {
  local part
  [ -d "$RUN/logs" ] || die "there is no cluster $NAME"
  if [ $# -eq 0 ]; then
    for part in "$RUN"/logs/*.log; do printf '== %s\n' "$part" && tail -n 10 "$part"; done
  else
    exec tail -n "${TAIL:-100}" "$RUN/logs/$1.log"
  fi
}

verb_exec() {
  need_root
  [ -e "$NETNS" ] || die "cluster $NAME is not up"
  exec nsenter --net="$NETNS" "$@"
}

verb_ctr() {
  need_root
  [ -S "$(containerd_socket)" ] || die "cluster $NAME has no node that runs"
  ctr "$@"
}

verb_bounce() {
  need_root
  need_cluster
  with_lock "cluster-$NAME" bounce_locked
}

# 192B is 6443, 0A is LISTEN.
api_port_free() { ! nsenter --net="$NETNS" grep -q ':192B [0-9A-F:]* 0A ' /proc/net/tcp /proc/net/tcp6; }

bounce_locked() {
  local pid
  if pid=$(daemon_pid kube-apiserver); then
    kill -KILL "$pid" 2>/dev/null || true
    wait_for 10 "kube-apiserver to be gone" daemon_gone kube-apiserver
    # Its first thread ends before the others let go of what they hold.
    wait_for 10 "its port to be free" api_port_free
  fi
  start_api_server
  wait_ready 60 "the API server" "etcd kube-apiserver" api_answers
}

verb_kubectl() {
  if external_kubeconfig; then exec kubectl "$@"; fi
  need_cluster
  exec "$KUBERNETES_BIN/kubectl" --kubeconfig "$RUN/kubeconfig" "$@"
}
