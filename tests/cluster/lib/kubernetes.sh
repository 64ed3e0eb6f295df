# shellcheck shell=bash
# Kubernetes itself: which version a cluster runs, and its programs, built once and cached by version.
#
#   newest and those between   Go modules, pinned in tests/cluster/kubernetes/VERSION (kubernetes_modules.sh)
#   the floor                  Debian's source package (kubernetes_floor.sh)

KUBERNETES_FLOOR=1.20.2
KUBERNETES_API=(kube-apiserver kube-controller-manager kubectl)
KUBERNETES_COMMANDS=("${KUBERNETES_API[@]}" kube-scheduler kubelet kube-proxy)
KUBERNETES_PINS=$CLUSTER_HOME/kubernetes

# Every version that can be had, oldest first.
kubernetes_versions() {
  local pins
  echo "$KUBERNETES_FLOOR"
  for pins in "$KUBERNETES_PINS"/*/go.mod; do
    [ -e "$pins" ] && basename "$(dirname "$pins")"
  done | sort -V
}

kubernetes_newest() { kubernetes_versions | tail -n 1; }

# As people call a version.
kubernetes_named() {
  case $1 in
    oldest) echo "$KUBERNETES_FLOOR" ;;
    newest) kubernetes_newest ;;
    *) echo "${1#v}" ;;
  esac
}

need_pins() { # of a version that somebody asked for
  # Not `grep -q`: it would end before the list does, and that counts as failed.
  kubernetes_versions | grep -xF -- "$1" >/dev/null || die "there is no Kubernetes '$1' here" \
    "There are: $(kubernetes_versions | tr '\n' ' ')" "Another is pinned with: $KUBERNETES_PINS/pin VERSION"
}

# set_kubernetes VERSION : which one the other parts build and start.
set_kubernetes() {
  KUBERNETES_VERSION=$1
  KUBERNETES_MINOR=$(cut -d. -f2 <<<"$1")
  KUBERNETES_BIN=$CACHE/kubernetes/$1
  KUBERNETES_BUILD=$CACHE/build/kubernetes-$1
  KUBERNETES_LOCK=kubernetes-$1
  export KUBERNETES_VERSION KUBERNETES_MINOR KUBERNETES_BIN KUBERNETES_BUILD KUBERNETES_LOCK
}

is_floor() { [ "$KUBERNETES_VERSION" = "$KUBERNETES_FLOOR" ]; }

kubernetes_ready() {
  local command
  for command in "$@"; do [ -x "$KUBERNETES_BIN/$command" ] || return 1; done
}

kubernetes_link_flags() { # the packages that hold the version
  local package source=modules flags="-s -w"
  if is_floor; then source=debian; fi
  for package in "$@"; do
    flags+=" -X $package.gitVersion=v$KUBERNETES_VERSION -X $package.gitMajor=1 -X $package.gitMinor=$KUBERNETES_MINOR"
    flags+=" -X $package.gitCommit=$source -X $package.gitTreeState=archive"
  done
  echo "$flags"
}

build_kubernetes() {
  if ! kubernetes_ready "$@"; then
    if is_floor; then build_floor "$@"; else build_modules "$@"; fi
  fi
  # Source and the compiler's cache are gigabytes that nobody needs once all of it is built.
  if kubernetes_ready "${KUBERNETES_COMMANDS[@]}" && [ -d "$KUBERNETES_BUILD" ]; then
    chmod -R u+w "$KUBERNETES_BUILD" # Go's module cache is read-only
    rm -rf "$KUBERNETES_BUILD"
    if is_floor; then rm -rf "$CACHE/apt"; fi
  fi
}
