# shellcheck shell=bash
# Which cluster a command is about, and what is known of it.

DEFAULT_NAME=dev

# set_cluster NAME : sets the variables that the other parts use.
set_cluster() {
  NAME=$1
  [[ $NAME =~ ^[a-z]([a-z0-9-]{0,18}[a-z0-9])?$ ]] ||
    die "'$NAME' is no good as a cluster's name" "Use up to 20 lower-case letters, digits and dashes."
  RUN=$RUN_ROOT/$NAME
  PKI=$RUN/pki
  MOUNTNS=$RUN/ns/mount
  choose_kubernetes
  DAEMON_PATH=$UNPACKED/usr/bin:$UNPACKED/usr/sbin:$KUBERNETES_BIN:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
  export RUN PKI MOUNTNS DAEMON_PATH
  set_network_names
  set_cgroup_paths
}

# What a cluster runs stays so, unless something else is asked for; see change_kubernetes.
choose_kubernetes() {
  local has
  has=$(cat "$RUN/kubernetes" 2>/dev/null || true)
  # One that was made before this was written down.
  [ -n "$has" ] || [ ! -e "$RUN/index" ] || has=$KUBERNETES_FLOOR
  set_kubernetes "${has:-${KUBERNETES_GIVEN:-$(kubernetes_newest)}}"
}

# Takes another version than the cluster has: only while it is stopped, and not an older one, which would not understand
# what the newer has stored.
change_kubernetes() {
  local has=$KUBERNETES_VERSION
  [ -n "$KUBERNETES_GIVEN" ] || return 0
  need_pins "$KUBERNETES_GIVEN"
  [ "$KUBERNETES_GIVEN" != "$has" ] || return 0
  set_kubernetes "$KUBERNETES_GIVEN"
  [ -e "$RUN/index" ] || return 0
  [ "$(printf '%s\n%s\n' "$has" "$KUBERNETES_VERSION" | sort -V | head -n 1)" = "$has" ] ||
    die "cluster $NAME has data of Kubernetes $has, which $KUBERNETES_VERSION may not understand" \
      "Start afresh: $CLUSTER_HOME/cluster down --purge --name $NAME"
  [ "$(cluster_state)" = stopped ] || die "cluster $NAME runs Kubernetes $has" \
    "Stop it first (its data stays): $CLUSTER_HOME/cluster down --name $NAME"
}

# The caller's own cluster, if KUBECONFIG names one that is not ours and nothing else was asked for.
external_kubeconfig() {
  [ -z "$NAME_GIVEN" ] || return 1
  [ -n "${KUBECONFIG:-}" ] || return 1
  case $KUBECONFIG in "$RUN_ROOT"/*) return 1 ;; esac
  return 0
}

# Without --name, a KUBECONFIG of ours says which cluster is meant.
default_name() {
  case ${KUBECONFIG:-} in
    "$RUN_ROOT"/*/kubeconfig) basename "$(dirname "$KUBECONFIG")" ;;
    *) echo "$DEFAULT_NAME" ;;
  esac
}

known_names() {
  local file
  for file in "$RUN_ROOT"/*/index; do
    [ -e "$file" ] && basename "$(dirname "$file")"
  done
  return 0
}

tier_parts() {
  if [ "$(cat "$RUN/tier" 2>/dev/null)" = node ]; then echo "$API_PARTS $NODE_PARTS"; else echo "$API_PARTS"; fi
}

# cluster_state : running, stopped or degraded (some parts run, or the API does not answer).
cluster_state() {
  local part alive=0 dead=0
  # shellcheck disable=SC2046
  for part in $(tier_parts); do
    if daemon_pid "$part" >/dev/null; then alive=$((alive + 1)); else dead=$((dead + 1)); fi
  done
  if [ $alive -eq 0 ]; then
    echo stopped
  elif [ $dead -eq 0 ] && api_answers >/dev/null 2>&1; then
    echo running
  else
    echo degraded
  fi
}

status_text() {
  local part pid
  printf '%s  %s  tier=%s  kubernetes=%s  server=%s\n' "$NAME" "$(cluster_state)" \
    "$(cat "$RUN/tier" 2>/dev/null || echo '?')" "$KUBERNETES_VERSION" "${SERVER:-none}"
  printf '  kubeconfig %s\n' "$RUN/kubeconfig"
  for part in $(tier_parts); do
    if pid=$(daemon_pid "$part"); then printf '  %-26s pid %s\n' "$part" "$pid"; else printf '  %-26s not running\n' "$part"; fi
  done
}

status_json() {
  local part pid parts='{}'
  for part in $(tier_parts); do
    pid=$(daemon_pid "$part" || echo null)
    parts=$(jq -c --arg part "$part" --argjson pid "$pid" '.[$part] = $pid' <<<"$parts")
  done
  jq -cn --arg name "$NAME" --arg state "$(cluster_state)" --arg tier "$(cat "$RUN/tier" 2>/dev/null || true)" \
    --arg kubernetes "$KUBERNETES_VERSION" --arg kubeconfig "$RUN/kubeconfig" --arg server "${SERVER:-}" --arg host "${HOST_IP:-}" --arg node "${NODE_IP:-}" \
    --arg pods "${POD_CIDR:-}" --arg services "${SERVICE_CIDR:-}" --argjson parts "$parts" \
    '{name: $name, state: $state, tier: $tier, kubernetes: $kubernetes, kubeconfig: $kubeconfig, server: $server, hostIP: $host,
      nodeIP: $node, podCIDR: $pods, serviceCIDR: $services, parts: $parts}'
}
