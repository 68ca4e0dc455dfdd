"""The chart as it is handed out: packaged, signed, verified, pushed to a registry of images and pulled from it."""

import contextlib
import hashlib
import os
import socket
import subprocess
import tarfile
import tempfile
import time
import urllib.request

import pytest
import yaml

from chart import CHART, HELMS, Refused, arguments_of, helm, text

PASSPHRASE = "only for this test"


@pytest.fixture(scope="module")
def keys():
    """A key ring with one key, in the old form that Helm reads."""
    with tempfile.TemporaryDirectory() as home:  # short: the agent's socket has a short name or none
        def gpg(*words, **kwargs):
            return subprocess.run(["gpg", "--homedir", home, "--batch", "--pinentry-mode", "loopback", "--passphrase",
                                   PASSPHRASE, *words], check=True, capture_output=True, **kwargs).stdout

        gpg("--quick-generate-key", "Slipway test <test@slipway.invalid>", "rsa2048", "sign", "never")
        for name, command in (("public", "--export"), ("secret", "--export-secret-keys")):
            with open(f"{home}/{name}.gpg", "wb") as file:
                file.write(gpg(command))
        with open(f"{home}/passphrase", "w") as file:
            file.write(PASSPHRASE)
        yield home
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "gpg-agent"], check=True)


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """host:port of a registry of images on the loopback address."""
    folder = tmp_path_factory.mktemp("registry")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    (folder / "config.yml").write_text(yaml.safe_dump({
        "version": 0.1, "log": {"level": "error"}, "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": address, "secret": "x"}}))
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(["docker-registry", "serve", folder / "config.yml"], stdout=log, stderr=log)
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        deadline = time.monotonic() + 30
        while True:
            assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
            with contextlib.suppress(OSError):
                opener.open(f"http://{address}/v2/", timeout=1)
                break
        yield address
    finally:
        process.terminate()
        process.wait(timeout=10)


@pytest.mark.parametrize("major", HELMS)
def test_it_is_packaged_signed_verified_pushed_and_pulled(major, keys, registry, tmp_path):
    helm(major, "package", CHART, "--destination", tmp_path, "--sign", "--key", "Slipway test", "--keyring",
         f"{keys}/secret.gpg", "--passphrase-file", f"{keys}/passphrase")
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]
    package = tmp_path / f"slipway-{version}.tgz"
    public = f"{keys}/public.gpg"
    helm(major, "verify", package, "--keyring", public)

    name = f"charts{major}"
    helm(major, "push", package, f"oci://{registry}/{name}", "--plain-http")
    pulled = tmp_path / "pulled"
    pulled.mkdir()
    helm(major, "pull", f"oci://{registry}/{name}/slipway", "--version", version, "--plain-http", "--destination", pulled,
         "--verify", "--keyring", public)
    digests = [hashlib.sha256((folder / package.name).read_bytes()).hexdigest() for folder in (tmp_path, pulled)]
    assert digests[0] == digests[1]

    done = helm(major, "template", "demo", f"oci://{registry}/{name}/slipway", "--version", version, "--plain-http", "--verify",
                "--keyring", public, "--namespace", "ml", "--kube-version", "1.34.4", *arguments_of())
    documents = [list(yaml.safe_load_all(rendered)) for rendered in (done.stdout, text(major=major))]
    assert documents[0] == documents[1], "the package renders what the folder renders"

    # One byte more is another chart.
    with open(package, "ab") as file:
        file.write(b"\0")
    with pytest.raises(Refused):
        helm(major, "verify", package, "--keyring", public)


def test_the_package_holds_what_it_needs_and_no_more(tmp_path):
    helm(4, "package", CHART, "--destination", tmp_path)
    with tarfile.open(next(tmp_path.glob("*.tgz"))) as package:
        packed = {os.path.relpath(name, "slipway") for name in package.getnames()}
    assert packed == {str(path.relative_to(CHART)) for path in CHART.rglob("*") if path.is_file()} - {".helmignore"} or \
        packed == {str(path.relative_to(CHART)) for path in CHART.rglob("*") if path.is_file()}
