# shellcheck shell=bash
# Each cluster is a network namespace of its own, joined to the host by one veth pair. Cluster number N:
#   10.250.N.0/24  the link: host .1, node .2 (the API server listens there)
#   10.251.N.0/24  pods        10.252.N.0/24  services
# The host has routes to all three, so kubectl, tests and webhooks on the host need no tunnel.

HIGHEST_INDEX=99

set_network_names() {
  NETNS=/run/netns/mw-$NAME
  INDEX=$(cat "$RUN/index" 2>/dev/null || true)
  [ -n "$INDEX" ] || return 0
  HOST_LINK=mw-$INDEX
  HOST_IP=10.250.$INDEX.1
  NODE_IP=10.250.$INDEX.2
  POD_CIDR=10.251.$INDEX.0/24
  SERVICE_CIDR=10.252.$INDEX.0/24
  API_SERVICE_IP=10.252.$INDEX.1
  DNS_SERVICE_IP=10.252.$INDEX.10
  SERVER=https://$NODE_IP:6443
}

# free_index : prints a cluster number that no cluster has, and whose three networks nobody has a route to.
free_index() {
  local index taken
  taken=" $(cat "$RUN_ROOT"/*/index 2>/dev/null | tr '\n' ' ') "
  for index in $(seq 1 $HIGHEST_INDEX); do
    [[ $taken == *" $index "* ]] && continue
    # Somebody else's route (a VPN, a container engine) wins.
    routed "10.250.$index.2" || routed "10.251.$index.2" || routed "10.252.$index.2" || { echo "$index" && return; }
  done
}

routed() { ip -4 route show to match "$1" | grep -qv '^default'; }

# The caller holds the lock "indexes".
allocate_index() {
  local index
  [ -s "$RUN/index" ] && return 0
  index=$(free_index)
  if [ -z "$index" ]; then
    echo "no free cluster number between 1 and $HIGHEST_INDEX; see: cluster status"
    return 1
  fi
  echo "$index" | write_file "$RUN/index"
}

in_node() { nsenter --net="$NETNS" "$@"; }

network_ready() {
  [ -e "$NETNS" ] && ip -4 addr show dev "$HOST_LINK" 2>/dev/null | grep -qF "$HOST_IP/24" &&
    in_node ip -4 addr show dev eth0 2>/dev/null | grep -qF "$NODE_IP/24" &&
    ip route show "$SERVICE_CIDR" | grep -q . && ip route show "$POD_CIDR" | grep -q .
}

make_network() {
  network_ready && return 0
  # Half a network is not worth mending: nothing that matters is inside yet, or it died with it.
  remove_network
  ip netns add "mw-$NAME"
  ip link add "$HOST_LINK" type veth peer name eth0 netns "mw-$NAME"
  in_node ip link set lo up
  in_node ip addr add "$NODE_IP/24" dev eth0
  in_node ip link set eth0 up
  ip addr add "$HOST_IP/24" dev "$HOST_LINK"
  ip link set "$HOST_LINK" up
  # A default route must exist for kubelet and for ClusterIPs to be routable; the host does not
  # forward what comes this way unless it was told to.
  in_node ip route add default via "$HOST_IP"
  # kubelet asks a cloud's metadata service for credentials, and would wait 10 s for no answer.
  in_node ip route add prohibit 169.254.0.0/16
  ip route add "$POD_CIDR" via "$NODE_IP"
  ip route add "$SERVICE_CIDR" via "$NODE_IP"
  in_node sysctl -qw net.ipv4.ip_forward=1
  modprobe br_netfilter 2>/dev/null || true
  # Pod to ClusterIP to pod on the same bridge is rewritten by iptables only with this.
  in_node sysctl -qw net.bridge.bridge-nf-call-iptables=1 || echo "no br_netfilter: ClusterIPs may not work between pods"
}

remove_network() {
  if [ -n "$INDEX" ]; then ip link delete "$HOST_LINK" 2>/dev/null || true; fi
  if [ -e "$NETNS" ]; then ip netns delete "mw-$NAME"; fi
}
