"""Reads build/images/slipway.tar: configs, and the files that a container of an image sees."""

import json
import os
import pathlib
import re
import tarfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
ARCHIVE = pathlib.Path(os.environ.get("SLIPWAY_IMAGES", ROOT / "build/images/slipway.tar"))
VERSION = re.search(r"^project\(slipway VERSION (\S+)", (ROOT / "CMakeLists.txt").read_text(), re.M)[1]
NAMES = ("gateway", "registry", "trainer", "inferencer", "cli")


class Image:
    def __init__(self, tar, descriptor):
        self.tar = tar
        self.descriptor = descriptor
        self.name = descriptor["annotations"]["io.containerd.image.name"]
        self.manifest = json.loads(self.blob(descriptor))
        self.config = json.loads(self.blob(self.manifest["config"]))
        self.layers = [layer["digest"] for layer in self.manifest["layers"]]
        self.size = sum(layer["size"] for layer in self.manifest["layers"])
        self.files, self.base_files = {}, {}  # path: (tar of its layer, member); whiteouts applied
        for number, layer in enumerate(self.manifest["layers"]):
            self.lay(tarfile.open(fileobj=self.open(layer), mode="r:"))
            if number == 0:
                self.base_files = dict(self.files)

    def open(self, descriptor):
        return self.tar.extractfile("blobs/sha256/" + descriptor["digest"].removeprefix("sha256:"))

    def blob(self, descriptor):
        return self.open(descriptor).read()

    def lay(self, layer):
        for member in layer.getmembers():
            path = pathlib.PurePosixPath("/" + member.name)
            if path.name == ".wh..wh..opq":
                self.drop(str(path.parent) + "/")
            elif path.name.startswith(".wh."):
                gone = str(path.with_name(path.name.removeprefix(".wh.")))
                self.files.pop(gone, None)
                self.drop(gone + "/")
            else:
                self.files[str(path)] = (layer, member)

    def drop(self, prefix):
        for path in [p for p in self.files if p.startswith(prefix)]:
            del self.files[path]

    def read(self, path, files=None):
        layer, member = (files or self.files)[path]
        return layer.extractfile(member).read()

    def packages(self, files=None):
        """{package: fields of dpkg's list} of what is installed."""
        found = {}
        for paragraph in self.read("/var/lib/dpkg/status", files).decode().split("\n\n"):
            fields = dict(re.findall(r"^([\w-]+): (.*)$", paragraph, re.M))
            if fields.get("Status", "").endswith(" installed"):
                found[fields["Package"]] = fields
        return found


def images(archive=ARCHIVE):
    """{short name: Image} of an archive."""
    tar = tarfile.open(archive)
    found = [Image(tar, d) for d in json.load(tar.extractfile("index.json"))["manifests"]]
    return {image.name.rpartition("/")[2].partition(":")[0]: image for image in found}


def listed(name):
    """What ./packages lists for `name`."""
    rows = [line.split() for line in (ROOT / "packages").read_text().splitlines() if not line.startswith("#")]
    return {row[1] for row in rows if len(row) == 2 and name in row[0].split(",")}
