# shellcheck shell=bash
# Tier "node": one real node. Its daemons share a mount namespace, so that several clusters can each
# have their own /var/lib/kubelet, /var/log/pods and /run/netns (kubelet deletes the logs of pods that
# it does not know), and so that ending the namespace unmounts everything pods ever mounted.

NODE_PARTS="kube-scheduler containerd kubelet kube-proxy dns"
CONTAINERD_SOCKET_NAME=containerd.sock
export NODE_PARTS

containerd_socket() { echo "$RUN/$CONTAINERD_SOCKET_NAME"; }

ctr() { "$UNPACKED/usr/bin/ctr" --address "$(containerd_socket)" --namespace k8s.io "$@"; }

make_mount_namespace() {
  if [ -e "$RUN/ns/ready" ] && mountpoint -q "$MOUNTNS"; then return 0; fi
  remove_node_mounts
  mkdir -p "$RUN/ns" "$RUN/containerd" "$RUN/kubelet" "$RUN/pod-logs" "$RUN/container-logs" "$RUN/cni/state"
  # A namespace can only be kept on a mount that does not propagate into it.
  mount --bind "$RUN/ns" "$RUN/ns"
  mount --make-private "$RUN/ns"
  touch "$MOUNTNS"
  # Nothing to forward to: names outside the cluster do not resolve.
  echo "nameserver $NODE_IP" | write_file "$RUN/resolv.conf"
  # Not `ip netns exec`: it remounts /sys, which hides the cgroups from kubelet.
  unshare --mount="$MOUNTNS" --propagation private bash -euc '
    mkdir -p /var/lib/kubelet /var/log/pods /var/log/containers /var/lib/cni /run/netns /run/containerd
    mount --bind "$1/kubelet" /var/lib/kubelet
    mount --bind "$1/pod-logs" /var/log/pods
    mount --bind "$1/container-logs" /var/log/containers
    mount --bind "$1/cni/state" /var/lib/cni
    # The machine'\''s name servers are out of reach from here, and kubelet would wait 5 s for them.
    mount --bind "$1/resolv.conf" "$(readlink -f /etc/resolv.conf)"
    mount -t tmpfs -o mode=0755 tmpfs /run/netns
    mount -t tmpfs -o mode=0755 tmpfs /run/containerd
    mount --make-rshared /
  ' node "$RUN"
  touch "$RUN/ns/ready"
}

remove_node_mounts() {
  rm -f "$RUN/ns/ready"
  while mountpoint -q "$MOUNTNS"; do umount "$MOUNTNS" || return 1; done
  while mountpoint -q "$RUN/ns"; do umount "$RUN/ns" || return 1; done
  # What belonged to the ended pods: their addresses and their empty mount points.
  rm -rf "$RUN/cni/state" "$RUN/kubelet/pods"
}

write_node_config() {
  local snapshotter=overlayfs
  overlay_works "$RUN" || snapshotter=native
  write_file "$RUN/containerd.toml" <<END
version = 2
root = "$RUN/containerd"
state = "/run/containerd"
oom_score = 0
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = "$(containerd_socket)"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/$PAUSE_IMAGE"
  # Without CAP_SYS_RESOURCE nobody may lower an OOM score; runc dies trying.
  restrict_oom_score_adj = true
  tolerate_missing_hugetlb_controller = true
  disable_hugetlb_controller = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "$UNPACKED/usr/lib/cni"
    conf_dir = "$RUN/cni/conf"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "$snapshotter"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        BinaryName = "$UNPACKED/usr/sbin/runc"
END
  write_file "$RUN/cni/conf/10-meshwright.conflist" <<END
{"cniVersion": "0.4.0", "name": "meshwright-$NAME", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "$POD_CIDR"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
END
  write_file "$RUN/kubelet.yaml" <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
# Not loopback: the API server calls this for logs and exec.
address: 0.0.0.0
readOnlyPort: 0
authentication: {anonymous: {enabled: false}, webhook: {enabled: false}, x509: {clientCAFile: $PKI/ca.crt}}
authorization: {mode: AlwaysAllow}
tlsCertFile: $PKI/kubelet-server.crt
tlsPrivateKeyFile: $PKI/kubelet-server.key
clusterDNS: [$DNS_SERVICE_IP]
clusterDomain: cluster.local
resolvConf: $RUN/resolv.conf
cgroupDriver: cgroupfs
cgroupRoot: /meshwright/$NAME
failSwapOn: false
enforceNodeAllocatable: []
# The disk belongs to the machine's owner: how full it is must not evict pods.
evictionHard: {memory.available: "0%", nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%"}
imageGCHighThresholdPercent: 100
maxPods: 200
registryPullQPS: 0
serializeImagePulls: false
syncFrequency: 10s
nodeStatusUpdateFrequency: 1s
kubeAPIQPS: 100
kubeAPIBurst: 200
eventRecordQPS: 0
volumePluginDir: /var/lib/kubelet/volume-plugins
$(newer_kubelet_config)
END
  write_file "$RUN/kube-proxy.yaml" <<END
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
clientConnection: {kubeconfig: $RUN/kubeconfigs/proxy}
hostnameOverride: $NAME
clusterCIDR: $POD_CIDR
metricsBindAddress: 127.0.0.1:10249
iptables: {minSyncPeriod: 0s, syncPeriod: 30s}
# The connection table is the machine's, not ours to resize.
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
END
}

# What the floor is told on its command line, and does not know yet.
newer_kubelet_config() {
  is_floor && return 0
  echo "containerRuntimeEndpoint: unix://$(containerd_socket)"
  # Such a machine is no business of a test cluster's.
  [ "$KUBERNETES_MINOR" -lt 31 ] || echo "failCgroupV1: false"
}

runtime_flags() {
  is_floor || return 0
  printf '%s\n' --container-runtime remote --container-runtime-endpoint "unix://$(containerd_socket)"
}

overlay_works() {
  local directory=$1/overlay-probe status=0
  mkdir -p "$directory"/{lower,upper,work,merged}
  mount -t overlay overlay -o "lowerdir=$directory/lower,upperdir=$directory/upper,workdir=$directory/work" "$directory/merged" || status=1
  umount "$directory/merged" 2>/dev/null
  rm -rf "$directory"
  return $status
}

start_containerd() {
  start_daemon containerd "$UNPACKED/usr/bin/containerd" --config "$RUN/containerd.toml"
  wait_ready 30 containerd containerd ctr version
}

start_kubelet() {
  local runtime
  mapfile -t runtime < <(runtime_flags)
  start_daemon kubelet "$KUBERNETES_BIN/kubelet" --config "$RUN/kubelet.yaml" \
    --kubeconfig "$RUN/kubeconfigs/kubelet" --root-dir /var/lib/kubelet --cert-dir /var/lib/kubelet/pki \
    "${runtime[@]}" --hostname-override "$NAME" --node-ip "$NODE_IP"
}

# Ready, as said by this kubelet: the API still holds what the one before it had said.
node_ready() {
  local status heard
  read -r status heard < <(kube get node "$NAME" \
    -o 'jsonpath={range .status.conditions[?(@.type=="Ready")]}{.status} {.lastHeartbeatTime}{end}')
  [ "$status" = True ] && [ "$(date -d "$heard" +%s)" -ge "$(stat -c %Y "$RUN/pids/kubelet")" ]
}

services_routed() { in_node curl -sf --max-time 2 http://127.0.0.1:10256/healthz; }

start_node() {
  local plain
  mapfile -t plain < <(no_plain_port)
  make_mount_namespace
  write_node_config
  start_daemon kube-scheduler "$KUBERNETES_BIN/kube-scheduler" --kubeconfig "$RUN/kubeconfigs/scheduler" \
    --leader-elect=false "${plain[@]}" --kube-api-qps 200 --kube-api-burst 400
  start_containerd
  load_pause_image
  start_dns
  start_kubelet
  start_daemon kube-proxy "$KUBERNETES_BIN/kube-proxy" --config "$RUN/kube-proxy.yaml"
  wait_ready 60 "the node" "$NODE_PARTS" node_ready
  wait_ready 30 "kube-proxy" "$NODE_PARTS" services_routed
}

start_dns() {
  kube apply -f - >/dev/null <<END
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: local:dns}
rules: [{apiGroups: [""], resources: [services, endpoints], verbs: [list, watch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: local:dns}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: local:dns}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: local:dns}]
---
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec:
  clusterIP: $DNS_SERVICE_IP
  ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
---
apiVersion: v1
kind: Endpoints
metadata: {name: kube-dns, namespace: kube-system}
subsets: [{addresses: [{ip: $NODE_IP}], ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]}]
END
  start_daemon dns /usr/bin/python3 "$CLUSTER_HOME/lib/dns.py" --listen "$NODE_IP" --server "$SERVER" \
    --ca "$PKI/ca.crt" --cert "$PKI/dns.crt" --key "$PKI/dns.key"
}

# Pods end with the cluster's cgroup; here only those stop first that would start them again.
stop_node() {
  local part
  for part in kubelet kube-proxy kube-scheduler dns; do stop_daemon "$part"; done
  kill_pods
  stop_daemon containerd
}

# Containers get a moment for their SIGTERM while containerd still records how they ended.
kill_pods() {
  local pids
  mapfile -t pids < <(pod_pids)
  [ ${#pids[@]} -gt 0 ] || return 0
  kill -TERM "${pids[@]}" 2>/dev/null || true
  wait_for 2 "containers to end" no_pod_pids || true
  mapfile -t pids < <(pod_pids)
  [ ${#pids[@]} -eq 0 ] || kill -KILL "${pids[@]}" 2>/dev/null || true
}

pod_pids() { find "$CGROUP_TREE/kubepods" -name cgroup.procs -exec cat {} + 2>/dev/null || true; }

no_pod_pids() { [ -z "$(pod_pids)" ]; }
