# shellcheck shell=bash
# Certificates and kubeconfigs, the way kubeadm lays them out: one CA, one client certificate per
# component, so that every component has only its own rights.

make_key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 2>/dev/null | write_file "$1" 0600; }

make_ca() {
  [ -s "$PKI/ca.crt" ] && return 0
  make_key "$PKI/ca.key"
  openssl req -x509 -new -key "$PKI/ca.key" -sha256 -days 3650 -subj "/CN=meshwright-$NAME" \
    -addext "keyUsage=critical,digitalSignature,keyCertSign,cRLSign" | write_file "$PKI/ca.crt"
}

# make_certificate FILE SUBJECT EXTENSIONS...
make_certificate() {
  local file=$1 subject=$2
  shift 2
  [ -s "$PKI/$file.crt" ] && return 0
  make_key "$PKI/$file.key"
  openssl req -new -key "$PKI/$file.key" -subj "$subject" |
    openssl x509 -req -CA "$PKI/ca.crt" -CAkey "$PKI/ca.key" -set_serial "0x$(openssl rand -hex 15)" \
      -days 3650 -sha256 -extfile <(printf '%s\n' "basicConstraints=critical,CA:FALSE" \
        "keyUsage=critical,digitalSignature" "$@") 2>/dev/null |
    write_file "$PKI/$file.crt"
}

make_kubeconfig() {
  local path=$1 file=$2
  write_file "$path" 0600 <<END
apiVersion: v1
kind: Config
current-context: meshwright-$NAME
clusters:
- name: meshwright-$NAME
  cluster:
    server: $SERVER
    certificate-authority-data: $(base64 -w0 "$PKI/ca.crt")
users:
- name: $file@meshwright-$NAME
  user:
    client-certificate-data: $(base64 -w0 "$PKI/$file.crt")
    client-key-data: $(base64 -w0 "$PKI/$file.key")
contexts:
- name: meshwright-$NAME
  context: {cluster: meshwright-$NAME, user: $file@meshwright-$NAME, namespace: default}
END
}

# make_client FILE SUBJECT : a client certificate and the kubeconfig that uses it.
make_client() {
  make_certificate "$1" "$2" "extendedKeyUsage=clientAuth"
  [ -s "$RUN/kubeconfigs/$1" ] || make_kubeconfig "$RUN/kubeconfigs/$1" "$1"
}

make_pki() {
  local names
  make_ca
  names="DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc"
  names+=",DNS:kubernetes.default.svc.cluster.local,DNS:localhost"
  names+=",IP:127.0.0.1,IP:$NODE_IP,IP:$API_SERVICE_IP"
  make_certificate apiserver "/CN=kube-apiserver" "extendedKeyUsage=serverAuth" "subjectAltName=$names"
  make_certificate kubelet-server "/O=system:nodes/CN=system:node:$NAME" "extendedKeyUsage=serverAuth" \
    "subjectAltName=DNS:$NAME,IP:$NODE_IP"
  make_certificate apiserver-kubelet-client "/O=system:masters/CN=kube-apiserver-kubelet-client" "extendedKeyUsage=clientAuth"
  make_client admin "/O=system:masters/CN=kubernetes-admin"
  make_client controller-manager "/CN=system:kube-controller-manager"
  make_client scheduler "/CN=system:kube-scheduler"
  make_client kubelet "/O=system:nodes/CN=system:node:$NAME"
  make_client proxy "/CN=system:kube-proxy"
  make_client dns "/CN=local:dns"
  # RSA, because that is what nearly every real cluster signs its tokens with.
  if [ ! -s "$PKI/sa.pub" ]; then
    openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 2>/dev/null | write_file "$PKI/sa.key" 0600
    openssl pkey -in "$PKI/sa.key" -pubout | write_file "$PKI/sa.pub"
  fi
  # Last, and complete: its presence means that the rest is there.
  [ -s "$RUN/kubeconfig" ] || make_kubeconfig "$RUN/kubeconfig" admin
}
