# shellcheck shell=bash
# Everything that can be fetched or built beforehand. Each step looks first whether its result is
# there, so a second run takes well under a second.

# prepare api|node|images|all : Kubernetes has a lock of its own, for its build takes minutes that nobody else need wait.
prepare() {
  with_lock deps prepare_packages "$1"
  # The fast tier need not wait for kubelet to compile.
  if [ "$1" = api ]; then
    with_lock "$KUBERNETES_LOCK" build_kubernetes "${KUBERNETES_API[@]}"
  else
    with_lock "$KUBERNETES_LOCK" build_kubernetes "${KUBERNETES_COMMANDS[@]}"
  fi
  with_lock deps prepare_images "$1"
}

prepare_packages() {
  local what=$1 tools=("${TOOLS_RUN[@]}")
  need_debian
  if [ "$what" != api ] && ! pause_ready; then tools+=(gcc libc6-dev); fi
  if is_floor && ! kubernetes_ready "${KUBERNETES_COMMANDS[@]}"; then tools+=("${TOOLS_BUILD[@]}"); fi
  case $what in images | all) tools+=("${TOOLS_IMAGES[@]}") ;; esac
  tools_ready "${tools[@]}" || phase "install Debian packages" "$DEPS_LOG" install_tools "${tools[@]}"
  daemons_ready || phase "unpack etcd, containerd and network plugins" "$DEPS_LOG" unpack_daemons
}

prepare_images() {
  local what=$1
  if [ "$what" != api ] && ! pause_ready; then phase "build the pause image" "$DEPS_LOG" build_pause_image; fi
  case $what in images | all) prepare_base_image ;; esac
  # shellcheck disable=SC2046
  [ "$what" != all ] || with_lock envoy fetch_envoys $(envoy_versions)
}
