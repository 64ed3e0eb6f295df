# shellcheck shell=bash
# The image that our Dockerfiles start FROM. Nothing can be pulled here, so it is made from Debian
# packages, the way the published one is, and gets the published one's name.

BASE_IMAGE=docker.io/library/debian:bookworm-slim
BASE_ARCHIVE=$CACHE/images/debian-bookworm-slim.tar
BUILDAH_ROOT=$CACHE/buildah

run_buildah() {
  local driver=overlay
  # With vfs every step copies the whole file system; overlay is some ten times faster where it works.
  [ -e "$CACHE/buildah.vfs" ] && driver=vfs
  STORAGE_DRIVER=$driver BUILDAH_ISOLATION=chroot buildah --root "$BUILDAH_ROOT" --runroot "$BUILDAH_ROOT-run" "$@"
}

base_ready() { [ -e "$BASE_ARCHIVE.loaded" ]; }

make_base_archive() {
  local uri
  [ -s "$BASE_ARCHIVE" ] && return 0
  mkdir -p "$CACHE/images"
  uri=$(debian_mirror)
  # usr-is-merged: else the package usrmerge does the merging and brings perl, 50 MB, along.
  # Leaves out what the published slim image leaves out. docker-clean: else each `apt-get install`
  # leaves 70 MB of apt's own cache in a layer, as this one would.
  # shellcheck disable=SC2016
  mmdebstrap --mode=root --variant=apt --include=usr-is-merged \
    --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr --aptopt='Acquire::Retries "3"' \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/info/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    --customize-hook='printf "%s\n" "Dir::Cache::pkgcache \"\";" "Dir::Cache::srcpkgcache \"\";" "APT::Install-Recommends \"false\";" "DPkg::Post-Invoke { \"rm -f /var/cache/apt/archives/*.deb || true\"; };" >"$1/etc/apt/apt.conf.d/docker-clean"; rm -f "$1"/var/cache/apt/*.bin' \
    --customize-hook='printf "#!/bin/sh\nexit 101\n" >"$1/usr/sbin/policy-rc.d"; chmod 0755 "$1/usr/sbin/policy-rc.d"' \
    bookworm "$BASE_ARCHIVE.tmp.tar" "$uri"
  mv "$BASE_ARCHIVE.tmp.tar" "$BASE_ARCHIVE"
}

load_base_image() {
  local context=$CACHE/images/base-context
  overlay_works "$CACHE" || touch "$CACHE/buildah.vfs"
  rm -rf "$context"
  mkdir -p "$context"
  ln "$BASE_ARCHIVE" "$context/base.tar"
  printf 'FROM scratch\nADD base.tar /\nCMD ["bash"]\n' >"$context/Dockerfile"
  run_buildah build --pull-never -q -t "$BASE_IMAGE" "$context"
  rm -rf "$context"
  touch "$BASE_ARCHIVE.loaded"
}

prepare_base_image() {
  base_ready && return 0
  phase "make the base image from Debian packages (once)" "$DEPS_LOG" make_base_archive
  phase "load it for building" "$DEPS_LOG" load_base_image
}
