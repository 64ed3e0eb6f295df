# shellcheck shell=bash
# The oldest Kubernetes that we support, built from Debian's source package: its modules are of a time before Go modules
# of today can build them.

fetch_kubernetes_source() {
  [ -d "$KUBERNETES_BUILD/source" ] && return 0
  prepare_source_apt
  rm -rf "$KUBERNETES_BUILD.tmp"
  mkdir -p "$KUBERNETES_BUILD.tmp" "$KUBERNETES_BUILD"
  cd "$KUBERNETES_BUILD.tmp"
  # Ask for the upstream version, whatever Debian revision the mirror has of it.
  local version
  version=$(source_apt_cache showsrc kubernetes | awk '$1 == "Version:" {print $2}' |
    grep -F "$KUBERNETES_VERSION" | tail -n 1)
  source_apt source --only-source "kubernetes=$version"
  mv kubernetes-*/ tree
  replace_reflect2 tree
  mv tree "$KUBERNETES_BUILD/source"
  cd /
  rm -rf "$KUBERNETES_BUILD.tmp"
}

source_apt_cache() {
  local state=$CACHE/apt
  apt-cache -o Dir::Etc::sourcelist="$state/sources.list" -o Dir::Etc::sourceparts=- \
    -o Dir::State::lists="$state/lists" -o Dir::Cache="$state/cache" "$@"
}

# The vendored reflect2 1.0.1 reads Go's internals in a way that Go 1.19 broke: kube-apiserver then
# crashes at the first custom resource that it decodes. Debian's 1.0.2 is the upstream fix.
replace_reflect2() {
  local vendored=$1/vendor/github.com/modern-go/reflect2
  rm -rf "$vendored"
  cp -rL "$UNPACKED/usr/share/gocode/src/github.com/modern-go/reflect2" "$vendored"
  rm -f "$vendored"/*_test.go
}

# Module mode refuses the old go.mod; GOPATH mode wants the tree at its import path.
kubernetes_go_env() {
  mkdir -p "$KUBERNETES_BUILD/go/src/k8s.io"
  ln -sfn "$KUBERNETES_BUILD/source" "$KUBERNETES_BUILD/go/src/k8s.io/kubernetes"
  export GOPATH=$KUBERNETES_BUILD/go GOCACHE=$KUBERNETES_BUILD/gocache
  export GO111MODULE=off CGO_ENABLED=0
  export PATH=/usr/lib/go-1.19/bin:$PATH
  # There is no git tree to ask.
  export KUBE_GIT_VERSION=v$KUBERNETES_VERSION KUBE_GIT_COMMIT=debian KUBE_GIT_TREE_STATE=archive
  export KUBE_GIT_MAJOR=1 KUBE_GIT_MINOR=20
  cd "$GOPATH/src/k8s.io/kubernetes"
}

# kube-apiserver needs generated OpenAPI code, which is not in the source package.
generate_kubernetes_code() {
  [ -e "$KUBERNETES_BUILD/generated" ] && return 0
  kubernetes_go_env
  nice -n 5 make generated_files
  touch "$KUBERNETES_BUILD/generated"
}

# The API server tells its version from client-go's variables, the others from component-base's; the
# vendored path is the packages' real name in GOPATH mode.
build_debian_kubernetes() {
  local command flags
  kubernetes_go_env
  mkdir -p "$KUBERNETES_BIN"
  flags=$(kubernetes_link_flags k8s.io/kubernetes/vendor/k8s.io/{client-go/pkg,component-base}/version)
  for command in "$@"; do
    [ -x "$KUBERNETES_BIN/$command" ] && continue
    nice -n 5 go build -trimpath -ldflags "$flags" -o "$KUBERNETES_BIN/.$command.tmp" "k8s.io/kubernetes/cmd/$command"
    mv "$KUBERNETES_BIN/.$command.tmp" "$KUBERNETES_BIN/$command"
  done
}

build_floor() {
  say "Kubernetes $KUBERNETES_VERSION is built once (about 5 minutes on 2 cores) and cached in $KUBERNETES_BIN"
  phase "unpack the source of Kubernetes" "$DEPS_LOG" fetch_kubernetes_source
  phase "generate code (about 2 minutes)" "$DEPS_LOG" generate_kubernetes_code
  phase "compile $*" "$DEPS_LOG" build_debian_kubernetes "$@"
}
