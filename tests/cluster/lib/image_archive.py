"""Write a one-file image as an archive that `ctr images import` reads: image_archive.py NAME FILE OUT.

The pause image is one static program, so a cluster needs no image builder to start.
"""
import hashlib
import io
import json
import sys
import tarfile


def tar_of(files):
    """The bytes of a tar whose content depends on nothing but the files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, (mode, data) in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), mode
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


name, program, out = sys.argv[1:]
with open(program, "rb") as file:
    layer = tar_of({"pause": (0o755, file.read())})
config = json.dumps({
    "architecture": "amd64", "os": "linux",
    "config": {"Entrypoint": ["/pause"], "User": "65535:65535"},
    "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]},
}).encode()
config_name = hashlib.sha256(config).hexdigest() + ".json"
manifest = json.dumps([{"Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"]}]).encode()
with open(out, "wb") as file:
    file.write(tar_of({"layer.tar": (0o644, layer), config_name: (0o644, config), "manifest.json": (0o644, manifest)}))
