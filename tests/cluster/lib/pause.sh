# shellcheck shell=bash
# The image that holds each pod's namespaces.

PAUSE_IMAGE=meshwright/pause:1
PAUSE_ARCHIVE=$CACHE/images/pause-1.tar

pause_ready() { [ -s "$PAUSE_ARCHIVE" ]; }

build_pause_image() {
  local directory=$CACHE/images
  mkdir -p "$directory"
  gcc -Os -static -s -o "$directory/pause.tmp" "$CLUSTER_HOME/lib/pause.c"
  /usr/bin/python3 "$CLUSTER_HOME/lib/image_archive.py" "docker.io/$PAUSE_IMAGE" "$directory/pause.tmp" "$PAUSE_ARCHIVE.tmp"
  rm "$directory/pause.tmp"
  mv "$PAUSE_ARCHIVE.tmp" "$PAUSE_ARCHIVE"
}

load_pause_image() {
  ctr images ls -q | grep -qxF "docker.io/$PAUSE_IMAGE" || ctr images import "$PAUSE_ARCHIVE"
}
