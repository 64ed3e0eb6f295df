# shellcheck shell=bash
# Debian packages: tools are installed, daemons are only unpacked into the cache. Installing etcd or
# containerd would start services of their own and could replace the machine's container engine.

TOOLS_BUILD=(golang-1.19-go dpkg-dev rsync jq make gcc libc6-dev xz-utils)
TOOLS_RUN=(iproute2 iptables conntrack ebtables socat ethtool openssl curl jq procps util-linux python3 libseccomp2 kmod)
TOOLS_IMAGES=(buildah mmdebstrap gcc libc6-dev binutils python3)
DAEMONS=(etcd-server etcd-client containerd runc containernetworking-plugins golang-github-modern-go-reflect2-dev)
UNPACKED=$CACHE/debian
export UNPACKED

APT=(apt-get -q -y -o DPkg::Lock::Timeout=600 -o APT::Sandbox::User=root -o Acquire::Retries=3)

need_debian() {
  # In a subshell, for that file sets NAME and more.
  # shellcheck disable=SC1091
  [ "$(. /etc/os-release 2>/dev/null && echo "${VERSION_CODENAME:-}")" = bookworm ] && return 0
  die "a local cluster is made from Debian 12 (bookworm) packages, and this machine runs something else" \
    "Set KUBECONFIG to a cluster you already have (kind, k3d or a real one) and run this again:" \
    "everything that uses a cluster then uses that one."
}

# The lists lock has no timeout option of its own, so another apt on the machine is waited for here.
apt_update() {
  local attempt
  for attempt in $(seq 1 60); do
    "${APT[@]}" "$@" update && return 0
    echo "apt-get update failed (attempt $attempt of 60); another apt may be running"
    sleep 2
  done
  return 1
}

have_lists() {
  # shellcheck disable=SC2016
  [ -n "$(apt-get indextargets --format '$(FILENAME)' 'Created-By: Packages' 'Codename: bookworm' 2>/dev/null)" ]
}

missing_packages() {
  local package
  for package in "$@"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || echo "$package"
  done
}

install_tools() {
  local missing
  mapfile -t missing < <(missing_packages "$@" | sort -u)
  [ ${#missing[@]} -gt 0 ] || return 0
  export DEBIAN_FRONTEND=noninteractive
  have_lists || apt_update
  "${APT[@]}" install --no-install-recommends "${missing[@]}" && return 0
  # Old lists name versions that the mirror no longer has.
  apt_update
  "${APT[@]}" install --no-install-recommends "${missing[@]}"
}

tools_ready() { [ -z "$(missing_packages "$@")" ]; }

unpack_daemons() {
  local directory=$CACHE/debs package
  have_lists || apt_update
  rm -rf "$directory.tmp" "$UNPACKED.tmp"
  mkdir -p "$directory.tmp" "$UNPACKED.tmp"
  cd "$directory.tmp"
  "${APT[@]}" download "${DAEMONS[@]}" || {
    apt_update
    "${APT[@]}" download "${DAEMONS[@]}"
  }
  for package in *.deb; do dpkg-deb -x "$package" "$UNPACKED.tmp"; done
  cd /
  rm -rf "$UNPACKED" "$directory.tmp"
  mv "$UNPACKED.tmp" "$UNPACKED"
}

daemons_ready() { [ -x "$UNPACKED/usr/bin/etcd" ]; }

# source_apt ARGS... : apt-get with a private deb-src line for the mirror that this machine already
# uses, so that the machine's own sources stay as they are.
source_apt() {
  local state=$CACHE/apt
  "${APT[@]}" -o Dir::Etc::sourcelist="$state/sources.list" -o Dir::Etc::sourceparts=- \
    -o Dir::State::lists="$state/lists" -o Dir::Cache="$state/cache" "$@"
}

# The archive that this machine takes its Debian packages from. Its Suite is the release itself:
# security and updates are archives of their own.
debian_mirror() {
  local uri
  have_lists || apt_update >&2
  # shellcheck disable=SC2016
  uri=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT) $(ORIGIN)' 'Created-By: Packages' |
    awk '$2 == "bookworm" && $3 == "main" && $4 == "Debian" && !found {found = $1} END {print found}')
  if [ -z "$uri" ]; then
    echo "no Debian bookworm main archive among apt's sources" >&2
    return 1
  fi
  echo "$uri"
}

prepare_source_apt() {
  local state=$CACHE/apt uri
  mkdir -p "$state/lists/partial" "$state/cache/archives/partial"
  uri=$(debian_mirror)
  printf 'deb-src %s bookworm main\n' "$uri" | write_file "$state/sources.list"
  apt_update -o Dir::Etc::sourcelist="$state/sources.list" -o Dir::Etc::sourceparts=- \
    -o Dir::State::lists="$state/lists" -o Dir::Cache="$state/cache"
}
