# shellcheck shell=bash
# The project's images: built from images/*/Dockerfile with finished programs, loaded into a cluster's
# containerd. Nothing is compiled here, and nothing is built or loaded that has not changed.

IMAGE_STORE=$CACHE/images/store
PROFILE=${MESHWRIGHT_PROFILE:-dev}

image_store() { /usr/bin/python3 "$CLUSTER_HOME/lib/image_store.py" "$IMAGE_STORE" "$@"; }

# One line per image: NAME VERSION. Releases of the catalogue name the mesh's own; the rest stand alone.
image_list() {
  local release name
  for release in $(release_versions); do
    for name in operator controller injector proxy; do echo "$name $release"; done
  done
  echo "bookstore 1"
  echo "git-server 1"
}

image_ref() { echo "docker.io/meshwright/$1:$2"; }

# image_programs NAME : the programs of ours that the image holds.
image_programs() {
  case $1 in
    operator | controller | injector | proxy) echo "meshwright-$1" ;;
    bookstore) echo bookstore ;;
  esac
}

selected_images() {
  local name version
  while read -r name version; do
    case ",${ONLY:-$name}," in *",$name,"*) echo "$name $version" ;; esac
  done < <(image_list)
}

program_directory() {
  local target=${CARGO_TARGET_DIR:-$REPO/target}
  case $PROFILE in dev) echo "$target/debug" ;; *) echo "$target/$PROFILE" ;; esac
}

# stage_program NAME : a stripped copy, made again only when the program has changed.
stage_program() {
  local program=$1 source staged=$CACHE/images/programs/$1 mark
  source=$(program_directory)/$program
  if [ ! -x "$source" ]; then
    echo "$source does not exist. Build it first (cargo build), or choose other images with --only."
    return 1
  fi
  mark=$(stat -Lc '%n %s %y' "$source")
  [ "$mark" = "$(cat "$staged.source" 2>/dev/null)" ] && return 0
  mkdir -p "$CACHE/images/programs"
  rm -f "$staged.source"
  strip --strip-all -o "$staged.tmp" "$source"
  chmod 0755 "$staged.tmp"
  mv "$staged.tmp" "$staged"
  sha256sum "$staged" | cut -d' ' -f1 | write_file "$staged.sum"
  echo "$mark" | write_file "$staged.source"
}

# make_context NAME VERSION DIRECTORY : the build context, with everything the image depends on.
make_context() {
  local name=$1 version=$2 context=$3 program envoy=
  rm -rf "$context"
  mkdir -p "$context"
  cp -p "$REPO/images/$name/"* "$REPO/images/collect" "$context/"
  for program in $(image_programs "$name"); do
    stage_program "$program"
    ln "$CACHE/images/programs/$program" "$context/$program"
  done
  if [ "$name" = proxy ]; then
    envoy=$(release_envoy "$version")
    ln "$(envoy_path "$envoy")" "$context/envoy"
  fi
  # The values themselves rather than --build-arg: buildah 1.28 compares an ENV step by its text, so
  # 0.2.0 would be built from the cached step of 0.1.0.
  sed -i -E "s/\\$\\{VERSION\\}/$version/g; s/\\$\\{ENVOY_VERSION\\}/$envoy/g" "$context/Dockerfile"
}

# A wrong version inside an image would be found much later, as an upgrade that never ends.
check_image_version() {
  local name=$1 version=$2 variables
  grep -q '^ENV MESHWRIGHT_VERSION=' "$REPO/images/$name/Dockerfile" || return 0
  variables=$(run_buildah inspect --type image --format '{{range .OCIv1.Config.Env}}{{.}} {{end}}' "$(image_ref "$name" "$version")")
  case " $variables" in *" MESHWRIGHT_VERSION=$version "*) return 0 ;; esac
  echo "the image of $name $version says it is: $variables"
  return 1
}

# image_stamp NAME CONTEXT : changes when anything that goes into the image does.
image_stamp() {
  local name=$1 context=$2 program file
  {
    stat -Lc '%s %Y' "$BASE_ARCHIVE"
    for file in "$context"/*; do
      # Envoy and our programs are large; their names and sums are already known.
      case $(basename "$file") in
        envoy) ;;
        meshwright-* | bookstore) ;;
        *) sha256sum <"$file" ;;
      esac
    done
    for program in $(image_programs "$name"); do cat "$CACHE/images/programs/$program.sum"; done
  } | sha256sum | cut -d' ' -f1
}

# Beside the images: a bill of materials of each.
SBOMS=${CARGO_TARGET_DIR:-$REPO/target}/images

sbom_path() { echo "$SBOMS/$1-$2.spdx.json"; }

# write_sbom NAME VERSION CONTEXT : what the image that was just built holds.
write_sbom() {
  local name=$1 version=$2 context=$3 container root status program arguments=() metadata=$CACHE/images/crates.json
  container=$(run_buildah from --pull-never "$(image_ref "$name" "$version")")
  root=$(run_buildah mount "$container")
  status=$root/var/lib/dpkg/status
  [ ! -d "$status.d" ] || status=$status.d
  for program in $(image_programs "$name"); do arguments+=(--crate "${program#meshwright-}"); done
  [ "$name" != proxy ] || arguments+=(--envoy "$(release_envoy "$version")" "$context/envoy")
  (cd "$REPO" && cargo metadata --locked --format-version 1 --filter-platform x86_64-unknown-linux-gnu) >"$metadata"
  /usr/bin/python3 "$REPO/images/sbom" "$name" "$version" "$status" "${arguments[@]}" <"$metadata" |
    write_file "$(sbom_path "$name" "$version")"
  run_buildah umount "$container" >/dev/null
  run_buildah rm "$container" >/dev/null
}

build_image() {
  local name=$1 version=$2 ref context=$CACHE/images/context/$1-$2 pushed=$CACHE/images/pushed stamp sum
  ref=$(image_ref "$name" "$version")
  stamp=$(image_stamp "$name" "$context")
  run_buildah build --pull-never --layers --format oci -q -t "$ref" "$context"
  check_image_version "$name" "$version"
  # The image names its bill of materials by hash; built once more from cached layers, it differs by that label alone.
  write_sbom "$name" "$version" "$context"
  sum=$(sha256sum <"$(sbom_path "$name" "$version")" | cut -d' ' -f1)
  run_buildah build --pull-never --layers --format oci -q --label "io.meshwright.sbom.sha256=$sum" -t "$ref" "$context"
  rm -rf "$pushed"
  run_buildah push -q --disable-compression "$ref" "dir:$pushed"
  image_store add "$ref" "$stamp" "$pushed"
  rm -rf "$pushed"
}

# build_images : every selected image that is not up to date. The caller holds the lock "images".
build_images() {
  local name version built=0 versions=()
  while read -r name version; do
    [ "$name" = proxy ] && versions+=("$(release_envoy "$version")")
  done < <(selected_images)
  [ ${#versions[@]} -eq 0 ] || with_lock envoy fetch_envoys "${versions[@]}"
  while read -r name version; do
    context=$CACHE/images/context/$name-$version
    phase_quiet "stage $name:$version" "$IMAGES_LOG" make_context "$name" "$version" "$context"
    if [ -e "$(sbom_path "$name" "$version")" ] &&
      [ "$(image_stamp "$name" "$context")" = "$(image_store stamp "$(image_ref "$name" "$version")")" ]; then
      continue
    fi
    phase "build meshwright/$name:$version" "$IMAGES_LOG" build_image "$name" "$version" </dev/null
    built=$((built + 1))
  done < <(selected_images)
  [ $built -eq 0 ] || phase_quiet "tidy up" "$IMAGES_LOG" prune_images
}

prune_images() {
  image_store prune
  # What a killed build left, and the steps of images that have since been replaced.
  run_buildah rm --all >/dev/null || true
  run_buildah rmi --prune >/dev/null || true
}

# load_images : into the cluster's containerd; only what it lacks travels.
load_images() {
  local name version ref digest present missing=()
  present=$(ctr images ls | awk 'NR > 1 {print $1, $3}')
  while read -r name version; do
    ref=$(image_ref "$name" "$version")
    digest=$(image_store digest "$ref")
    grep -qxF "$ref $digest" <<<"$present" || missing+=("$ref")
  done < <(selected_images)
  if [ ${#missing[@]} -eq 0 ]; then
    say "  every image is in cluster $NAME already"
    return 0
  fi
  phase "load ${#missing[@]} images into cluster $NAME" "$RUN/logs/images.log" import_images "${missing[@]}"
  phase_quiet "forget replaced images" "$RUN/logs/images.log" forget_replaced_images
}

import_images() {
  local snapshotter
  snapshotter=$(sed -nE 's/^ *snapshotter = "(.*)"/\1/p' "$RUN/containerd.toml")
  ctr content ls -q | image_store archive "$@" | ctr images import --snapshotter "$snapshotter" - && return 0
  # containerd may have collected a blob just after it was counted on: send everything.
  image_store archive "$@" </dev/null | ctr images import --snapshotter "$snapshotter" -
}

# When a tag moves, containerd keeps the image it named before under its digest. Running containers
# do not need it: they hold their own snapshots.
forget_replaced_images() {
  local listed
  listed=$(ctr images ls | awk 'NR > 1 {print $1, $3}')
  awk '$1 !~ /^sha256:/ {named[$2] = 1} {all[$1] = $2} END {for (n in all) if (n ~ /^sha256:/ && !(all[n] in named)) print n}' \
    <<<"$listed" | xargs -r "$UNPACKED/usr/bin/ctr" --address "$(containerd_socket)" --namespace k8s.io images rm
}

IMAGES_LOG=$CACHE/images.log

verb_images() {
  [ -n "$(selected_images)" ] || die "--only $ONLY names no image" "There are: $(image_list | cut -d' ' -f1 | sort -u | tr '\n' ' ')"
  if external_kubeconfig; then
    external_images
    return
  fi
  need_root
  prepare images
  with_lock images build_images
  if [ "$(cat "$RUN/tier" 2>/dev/null)" = node ] && daemon_pid containerd >/dev/null; then
    with_lock "images-$NAME" load_images
  else
    say "  cluster $NAME has no running node; the images are built, and loaded by the next: cluster images"
  fi
}

# A cluster of the caller's own: say what to run, for only they know how it gets its images.
external_images() {
  local name version context load kube_context
  if external_has_images; then
    say "  the nodes have every image already"
    return 0
  fi
  kube_context=$(kubectl config current-context 2>/dev/null || true)
  case $kube_context in
    kind-*) load="kind load docker-image --name ${kube_context#kind-}" ;;
    k3d-*) load="k3d image import --cluster ${kube_context#k3d-}" ;;
    *) load="" ;;
  esac
  say "# KUBECONFIG names a cluster of your own ($kube_context). These commands build the images and load them:"
  while read -r name version; do
    context=$CACHE/images/context/$name-$version
    [ "$name" != proxy ] || with_lock envoy fetch_envoys "$(release_envoy "$version")"
    phase_quiet "stage $name:$version" "$IMAGES_LOG" make_context "$name" "$version" "$context"
    printf 'docker build -t meshwright/%s:%s %q\n' "$name" "$version" "$context"
    if [ -n "$load" ]; then
      printf '%s meshwright/%s:%s\n' "$load" "$name" "$version"
    else
      printf '# then bring meshwright/%s:%s to the nodes\n' "$name" "$version"
    fi
  done < <(selected_images)
  die "the nodes do not say that they have these images" \
    "Run the commands above, then this again; MESHWRIGHT_IMAGES=present if they are there (a kubelet tells of 50 images only)."
}

external_has_images() {
  local name version images
  [ "${MESHWRIGHT_IMAGES:-}" != present ] || return 0
  images=$(kubectl get nodes -o json | jq -r '.items[].status.images[]?.names[]?')
  while read -r name version; do
    grep -qE "(^|/)meshwright/$name:$version\$" <<<"$images" || return 1
  done < <(selected_images)
}
