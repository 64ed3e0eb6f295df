"""Built images as shared blobs, so that an import sends only what a containerd does not have yet.

image_store.py STORE add REF STAMP DIR    take in an image that was pushed to DIR (`dir:` transport)
image_store.py STORE stamp REF            print the stamp of REF's build
image_store.py STORE digest REF           print the manifest digest of REF
image_store.py STORE archive REF...       an OCI archive on stdout; digests named on stdin are left out
image_store.py STORE prune                drop blobs that no image uses
"""
import hashlib
import io
import json
import os
import shutil
import sys
import tarfile


def blob_path(store, digest):
    return os.path.join(store, "blobs", *digest.split(":"))


def ref_path(store, ref):
    return os.path.join(store, "refs", ref.replace("/", "_").replace(":", "@"))


def read_ref(store, ref):
    with open(ref_path(store, ref)) as file:
        return json.load(file)


def write(path, data):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + ".tmp", "wb") as file:
        file.write(data)
    os.replace(path + ".tmp", path)


def blobs_of(store, digest):
    """The manifest itself and everything that it names."""
    with open(blob_path(store, digest)) as file:
        manifest = json.load(file)
    return [digest, manifest["config"]["digest"]] + [layer["digest"] for layer in manifest["layers"]]


def add(store, ref, stamp, directory):
    with open(os.path.join(directory, "manifest.json"), "rb") as file:
        manifest = file.read()
    parsed = json.loads(manifest)
    for part in [parsed["config"], *parsed["layers"]]:
        target = blob_path(store, part["digest"])
        if not os.path.exists(target):
            os.makedirs(os.path.dirname(target), exist_ok=True)
            shutil.move(os.path.join(directory, part["digest"].split(":")[1]), target)
    digest = "sha256:" + hashlib.sha256(manifest).hexdigest()
    write(blob_path(store, digest), manifest)
    entry = {"ref": ref, "stamp": stamp, "digest": digest, "size": len(manifest), "mediaType": parsed["mediaType"]}
    write(ref_path(store, ref), json.dumps(entry).encode())


def archive(store, refs, present):
    out = tarfile.open(fileobj=sys.stdout.buffer, mode="w|")

    def member(name, data):
        entry = tarfile.TarInfo(name)
        entry.size = len(data)
        out.addfile(entry, io.BytesIO(data))

    manifests, wanted = [], {}
    for ref in refs:
        entry = read_ref(store, ref)
        manifests.append({
            "mediaType": entry["mediaType"], "digest": entry["digest"], "size": entry["size"],
            "annotations": {"io.containerd.image.name": ref, "org.opencontainers.image.ref.name": ref.rsplit(":", 1)[1]},
        })
        wanted.update(dict.fromkeys(blobs_of(store, entry["digest"])))
    member("oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
    for digest in wanted:
        if digest not in present:
            out.add(blob_path(store, digest), arcname="blobs/" + digest.replace(":", "/"))
    member("index.json", json.dumps({"schemaVersion": 2, "manifests": manifests}).encode())
    out.close()


def prune(store):
    used = set()
    for name in os.listdir(os.path.join(store, "refs")):
        with open(os.path.join(store, "refs", name)) as file:
            used.update(blobs_of(store, json.load(file)["digest"]))
    folder = os.path.join(store, "blobs", "sha256")
    for name in os.listdir(folder):
        if "sha256:" + name not in used:
            os.remove(os.path.join(folder, name))


def main():
    store, verb, *rest = sys.argv[1:]
    if verb == "add":
        add(store, *rest)
    elif verb in ("stamp", "digest"):
        try:
            print(read_ref(store, *rest)[verb])
        except FileNotFoundError:
            sys.exit(1)
    elif verb == "archive":
        archive(store, rest, set(sys.stdin.read().split()))
    elif verb == "prune":
        prune(store)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
