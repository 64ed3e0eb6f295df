# shellcheck shell=bash
# Tier "api": etcd, API server and controller manager. Real API semantics in a few seconds, no pods.

API_PARTS="etcd kube-apiserver kube-controller-manager"

start_etcd() {
  # No fsync: a test cluster may lose its last second in a power cut, and is several times faster.
  start_daemon etcd "$UNPACKED/usr/bin/etcd" --name "$NAME" --data-dir "$RUN/etcd" --unsafe-no-fsync \
    --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
    --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 \
    --initial-cluster "$NAME=http://127.0.0.1:2380" --auto-compaction-retention 5m \
    --quota-backend-bytes 4294967296 --logger zap --log-level warn
}

start_api_server() {
  start_daemon kube-apiserver "$KUBERNETES_BIN/kube-apiserver" \
    --etcd-servers http://127.0.0.1:2379 \
    --bind-address 0.0.0.0 --secure-port 6443 --advertise-address "$NODE_IP" \
    --service-cluster-ip-range "$SERVICE_CIDR" --allow-privileged=true \
    --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction \
    --client-ca-file "$PKI/ca.crt" \
    --tls-cert-file "$PKI/apiserver.crt" --tls-private-key-file "$PKI/apiserver.key" \
    --kubelet-certificate-authority "$PKI/ca.crt" \
    --kubelet-client-certificate "$PKI/apiserver-kubelet-client.crt" \
    --kubelet-client-key "$PKI/apiserver-kubelet-client.key" \
    --kubelet-preferred-address-types InternalIP \
    --service-account-issuer https://kubernetes.default.svc.cluster.local \
    --service-account-key-file "$PKI/sa.pub" --service-account-signing-key-file "$PKI/sa.key" \
    --api-audiences https://kubernetes.default.svc.cluster.local \
    --profiling=false
}

# The floor listens without TLS too unless it is told not to; later ones cannot, and have no such flag.
no_plain_port() { if is_floor; then echo "--port=0"; fi; }

start_controller_manager() {
  local ipam=node-ipam-controller
  if is_floor; then ipam=nodeipam; fi
  # shellcheck disable=SC2046
  start_daemon kube-controller-manager "$KUBERNETES_BIN/kube-controller-manager" \
    --kubeconfig "$RUN/kubeconfigs/controller-manager" \
    --controllers "*,-$ipam" --use-service-account-credentials --leader-elect=false \
    --service-account-private-key-file "$PKI/sa.key" --root-ca-file "$PKI/ca.crt" \
    --cluster-signing-cert-file "$PKI/ca.crt" --cluster-signing-key-file "$PKI/ca.key" \
    --cluster-name "meshwright-$NAME" $(no_plain_port) --profiling=false \
    --kube-api-qps 200 --kube-api-burst 400 # its own limit of 20/s would take seconds of every start
}

api_answers() { curl -sf --noproxy '*' --max-time 2 --cacert "$PKI/ca.crt" "$SERVER/readyz"; }

# The default service account exists once the controller manager works: without it no pod is admitted.
controllers_work() { kube get --raw /api/v1/namespaces/default/serviceaccounts/default; }

kube() { "$KUBERNETES_BIN/kubectl" --kubeconfig "$RUN/kubeconfig" "$@"; }

start_api() {
  make_cgroups
  make_network
  make_pki
  start_etcd
  start_api_server
  wait_ready 60 "the API server" "etcd kube-apiserver" api_answers
  # Only now: refused by an API server that has no roles yet, it would wait 10 s before it asks again.
  start_controller_manager
  wait_ready 60 "the controllers" "$API_PARTS" controllers_work
}
