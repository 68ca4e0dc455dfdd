"""What is in the images, read from the archive: nothing is started."""

import hashlib
import json
import os
import re
import subprocess
import tarfile
from datetime import datetime

import pytest

from image_archive import ARCHIVE, NAMES, ROOT, VERSION, images, listed

LIMIT_MB = {"gateway": 150, "registry": 150, "cli": 150, "trainer": 600, "inferencer": 600}
PROGRAM = {name: "/usr/bin/slipway-" + name for name in NAMES} | {"cli": "/usr/bin/slipway"}


@pytest.fixture(scope="session")
def all_images():
    return images()


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture
def image(all_images, name):
    return all_images[name]


def test_there_is_an_image_for_each_service_and_the_command_line(all_images):
    assert set(all_images) == set(NAMES)
    assert {i.name for i in all_images.values()} == {f"docker.io/slipway/{name}:{VERSION}" for name in NAMES}


def test_labels_say_what_it_is_and_what_it_was_built_from(image, name):
    labels = {k.removeprefix("org.opencontainers.image."): v for k, v in image.config["config"]["Labels"].items()}
    assert set(labels) == {"title", "description", "version", "revision", "created"}
    assert labels["title"] == "slipway-" + name and labels["version"] == VERSION
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", labels["revision"])
    assert labels["created"] == image.config["created"]
    assert {k: v for k, v in image.manifest["annotations"].items()} == image.config["config"]["Labels"]


def test_it_runs_as_an_ordinary_user_and_starts_its_program_without_a_shell(image, name):
    config = image.config["config"]
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == [PROGRAM[name]]
    assert not config.get("Cmd") or config["Cmd"] == ["bash"], "arguments go to the program"
    _, member = image.files[PROGRAM[name]]
    assert member.isreg() and member.mode & 0o777 == 0o755 and member.uid == 0
    assert [p for p in image.files if re.match(r"/usr/bin/slipway", p)] == [PROGRAM[name]], "and no other's"


def test_only_the_folders_for_data_belong_to_its_user(image):
    own = {path for path, (_, member) in image.files.items() if member.uid == 10001 or member.gid == 10001}
    assert own == {"/var/lib/slipway", "/var/cache/slipway"}


def test_no_program_gains_rights(image):
    for path, (_, member) in image.files.items():
        assert not member.isreg() or member.mode & 0o6000 == 0, path
        assert "SCHILY.xattr.security.capability" not in member.pax_headers, path


def test_size(image, name):
    assert image.size < LIMIT_MB[name] * 1e6


def test_services_without_models_carry_no_libtorch(all_images):
    for name in ("gateway", "registry", "cli"):
        assert not [p for p in all_images[name].files if re.search(r"/lib(torch|c10|openblas|dnnl)[^/]*\.so", p)]
    for name in ("trainer", "inferencer"):
        assert [p for p in all_images[name].files if "/libtorch_cpu.so" in p]


def test_packages_are_listed_for_scanners(image, name):
    packages = image.packages()
    assert listed(name) <= set(packages)
    for package in packages:
        assert {f"/var/lib/dpkg/info/{package}.list", f"/var/lib/dpkg/info/{package}:amd64.list",
                f"/var/lib/dpkg/info/{package}:arm64.list"} & set(image.files), package
    assert b"VERSION_CODENAME=trixie" in image.read("/usr/lib/os-release")


def test_nothing_is_installed_that_the_program_does_not_bring(image, name):
    packages = image.packages()
    provides = {}
    for package, fields in packages.items():
        for virtual in re.split(r", *", fields.get("Provides", "")):
            provides.setdefault(virtual.partition(" ")[0], set()).add(package)
    wanted, todo = set(), list(listed(name))
    while todo:
        package = todo.pop()
        if package in wanted or package not in packages:
            continue
        wanted.add(package)
        for field in ("Depends", "Pre-Depends"):
            for choice in re.split(r", *|\| *", packages[package].get(field, "")):
                dependency = choice.strip().partition(" ")[0].partition(":")[0]
                todo += [dependency, *provides.get(dependency, ())]
    assert set(packages) - set(image.packages(image.base_files)) - wanted == set()


def test_every_dependency_is_there(image):
    """dpkg's list is in itself whole, also where something was left out: apt works in images built on these."""
    packages = image.packages()
    there = set(packages) | {v.partition(" ")[0] for f in packages.values() for v in re.split(r", *", f.get("Provides", ""))}
    for package, fields in packages.items():
        for field in ("Depends", "Pre-Depends"):
            for dependency in filter(None, re.split(r", *", fields.get(field, ""))):
                choices = {c.strip().partition(" ")[0].partition(":")[0] for c in dependency.split("|")}
                assert choices & there, f"{package} wants {dependency}"


def test_no_compiler_no_interpreter_but_debians_own(image):
    bad = re.compile(r"(gcc|g\+\+|cpp|clang|llvm|libllvm|binutils|make|cmake|mold|python3|git|perl|ruby|libamd)([\d.-].*)?|.*-dev|.*-dbg")
    assert {p for p in image.packages() if bad.fullmatch(p)} == {"gcc-14-base", "perl-base"}  # the first is empty
    assert not [p for p in image.files if re.fullmatch(r"(/usr)?/bin/(cc|gcc|g\+\+|c\+\+|ld|as|clang|python3?|make)", p)]


def test_no_trace_of_the_day_it_was_built(image):
    for _, member in image.files.values():
        assert member.mtime == 0 and member.uname == "" and member.gname == ""
    bad = re.compile(r"/(var/log|var/lib/apt/lists|var/cache/apt|tmp|var/tmp|run)/.*|/var/lib/dpkg/[a-z]+-old|/etc/[a-z]+-")
    assert [path for path, (_, member) in image.files.items() if not member.isdir() and bad.fullmatch(path)] == []
    assert not [path for path in image.files if "slipway/install" in path or "slipway/packages" in path]


def test_what_several_images_share_is_stored_once(all_images):
    layers = {name: image.layers for name, image in all_images.items()}
    assert len({tuple(of[:2]) for of in layers.values()}) == 1
    assert layers["trainer"][:4] == layers["inferencer"][:4]
    with tarfile.open(ARCHIVE) as archive:
        blobs = [m.size for m in archive if m.name.startswith("blobs/sha256/")]
    assert sum(blobs) < sum(i.size for i in all_images.values()) * 0.5


def test_the_archive_is_one_for_docker_too(all_images):
    with tarfile.open(ARCHIVE) as archive:
        docker = json.load(archive.extractfile("manifest.json"))
        names = set(archive.getnames())
    assert [entry["RepoTags"] for entry in docker] == [[i.name] for i in all_images.values()]
    for entry, image in zip(docker, all_images.values()):
        assert entry["Config"] == "blobs/sha256/" + image.manifest["config"]["digest"].removeprefix("sha256:")
        assert entry["Layers"] == ["blobs/sha256/" + layer.removeprefix("sha256:") for layer in image.layers]
        assert {entry["Config"], *entry["Layers"]} <= names
        assert image.config["rootfs"]["diff_ids"] == image.layers, "layers are not compressed"


def test_the_same_source_gives_the_same_digests(all_images, tmp_path):
    """Every layer is built again. When Debian has published updates since, that is done twice."""
    labels = all_images["cli"].config["config"]["Labels"]
    created = datetime.fromisoformat(labels["org.opencontainers.image.created"].replace("Z", "+00:00"))
    environment = {**os.environ, "SLIPWAY_REVISION": labels["org.opencontainers.image.revision"],
                   "SOURCE_DATE_EPOCH": str(int(created.timestamp()))}

    def build(name):
        subprocess.run([ROOT / "images/build", "--no-cache", "--output", tmp_path / name], check=True, env=environment)
        return tmp_path / name

    def versions(archive):
        return {name: {p: f["Version"] for p, f in image.packages().items()} for name, image in images(archive).items()}

    first, second = ARCHIVE, build("second.tar")
    if versions(first) != versions(second):
        first, second = second, build("third.tar")
    digests = [{name: image.descriptor["digest"] for name, image in images(archive).items()} for archive in (first, second)]
    assert digests[0] == digests[1]
    assert hashlib.sha256(first.read_bytes()).hexdigest() == hashlib.sha256(second.read_bytes()).hexdigest()
