"""Uploads: bounded memory, clear refusals, room for everybody, and a disk that is full for a while."""

import concurrent.futures
import contextlib
import gzip
import pathlib
import socket
import struct
import subprocess
import time
from urllib.parse import urlsplit

import pytest
import requests

from cluster import BIN, measures_memory, wait_for
from idx import four_files, idx, small_job


def refused(cluster, files, *words, status=400):
    answer = cluster.put_dataset("bad", files)
    assert answer.status_code == status, answer.text
    document = answer.json()
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert document["status"] == status
    for word in words:
        assert str(word) in document["detail"], document["detail"]
    assert cluster.get("/api/v1/datasets/bad").status_code == 404, "nothing of it may be there"


def changed(**files):
    return {**four_files(rows=40, test_rows=8), **{name.replace("_", "-"): data for name, data in files.items()}}


def test_a_truncated_idx_is_refused(cluster):
    files = four_files(rows=40, test_rows=8)
    files["train-images-idx3-ubyte"] = files["train-images-idx3-ubyte"][:-1]
    refused(cluster, files, "train-images-idx3-ubyte", 40 * 64, 40 * 64 - 1)


def test_an_idx_with_bytes_too_many_is_refused(cluster):
    files = four_files(rows=40, test_rows=8)
    files["train-labels-idx1-ubyte"] += b"\0"
    refused(cluster, files, "train-labels-idx1-ubyte")


def test_an_idx_that_is_none_is_refused(cluster):
    refused(cluster, changed(train_images_idx3_ubyte=b"\x89PNG\r\n\x1a\n" + bytes(100)), "train-images-idx3-ubyte")


def test_an_idx_whose_dimensions_overflow_is_refused(cluster):
    header = struct.pack(">BBBB3I", 0, 0, 8, 3, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
    refused(cluster, changed(train_images_idx3_ubyte=header + bytes(10)), "train-images-idx3-ubyte")


def test_counts_that_differ_are_refused(cluster):
    refused(cluster, changed(train_labels_idx1_ubyte=idx((39,), [0] * 39)), 40, 39)


def test_a_missing_file_is_named(cluster):
    files = four_files(rows=40)
    del files["train-labels-idx1-ubyte"]
    refused(cluster, files, "train-labels-idx1-ubyte")


@pytest.mark.parametrize("damage", ["cut", "flipped", "trailing"])
def test_a_corrupt_gzip_is_refused(cluster, damage):
    files = four_files(rows=40, test_rows=8, compress=True)
    name = "train-images-idx3-ubyte.gz"
    data = bytearray(files[name])
    if damage == "cut":
        data = data[:-6]
    elif damage == "flipped":
        data[len(data) // 2] ^= 0xFF
    else:
        data += b"more"
    files[name] = bytes(data)
    refused(cluster, files, "train-images-idx3-ubyte", "gzip")


@pytest.mark.parametrize("table, words", [
    (b"a,b\n1,2\n3\n", ["row 2"]),
    (b"a,b\n1,2\n3,4,5\n", ["row 2"]),
    (b"a,b\n1,2\n,4\n", ["row 2", "'a'", "empty"]),
    (b"a,b\n1,2\n3,oops\n", ["row 2", "'b'", "oops"]),
    (b"a,b\n1,nan\n", ["'b'"]),
    (b"a,a\n1,2\n", ["'a'"]),
    (b"a,\n1,2\n", ["name"]),
    (b"a,b\n", ["row"]),
    (b"", ["empty"]),
])
def test_a_broken_csv_is_refused_where_it_breaks(cluster, table, words):
    refused(cluster, {"t.csv": table}, *words)


def test_a_file_of_an_unknown_kind_is_refused(cluster):
    refused(cluster, {"t.parquet": b"PAR1"}, "t.parquet")


def test_a_bad_name_is_refused(cluster):
    for name in ("..", "a b", "%2e%2e%2fx", "x" * 200):
        answer = cluster.put_dataset(name, {"t.csv": b"a,b\n1,2\n"})
        assert answer.status_code in (400, 404), (name, answer.text)


def test_a_label_outside_the_classes_is_refused_at_submission(cluster):
    assert cluster.put_dataset("seven", four_files(classes=7, side=8)).status_code == 201
    answer = cluster.post("/api/v1/jobs", json=small_job(dataset="seven", classes=4))
    assert answer.status_code == 400
    assert "6" in answer.json()["detail"] and "4" in answer.json()["detail"], answer.text
    assert answer.json()["path"].startswith("$.")


def test_an_unknown_target_is_refused_at_submission(cluster):
    assert cluster.put_dataset("table", {"t.csv": b"a,b\n1,2\n3,4\n"}).status_code == 201
    job = small_job(dataset={"name": "table", "target": "price"})
    answer = cluster.post("/api/v1/jobs", json=job)
    assert answer.status_code == 400 and "price" in answer.json()["detail"], answer.text
    assert answer.json()["path"] == "$.dataset.target"


def test_an_upload_that_breaks_off_leaves_nothing(cluster):
    url = urlsplit(cluster.url)
    with socket.create_connection((url.hostname, url.port)) as connection:
        connection.sendall(b"PUT /api/v1/datasets/broken?file=t.csv HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000000\r\n\r\n"
                           + b"a,b\n" + b"1,2\n" * 100_000)
    assert cluster.get("/api/v1/datasets/broken").status_code == 404
    assert cluster.get("/api/v1/datasets").status_code == 200


def test_a_file_that_comes_twice_in_a_form_is_refused(cluster):
    parts = [("files", ("t.csv", data)) for data in (b"a,b\n1,2\n3,4\n", b"a,b\n")]
    answer = cluster.request("PUT", "/api/v1/datasets/twice", files=parts)
    assert answer.status_code == 400 and "'t.csv' comes twice" in answer.json()["detail"], answer.text


def table(number, rows=400_000):
    """About 2.3 MiB, another one for each number: three parts of an upload."""
    return b"a,b\n%d,0\n" % number + b"1,2\n3.5,4\n" * (rows // 2)


def put_tables(cluster, names, **kwargs):
    """All at once, each on a connection of its own; returns the statuses."""
    def put(name):
        return requests.put(f"{cluster.url}/api/v1/datasets/{name}?file=t.csv", data=table(hash(name) % 2**31, **kwargs),
                            timeout=120).status_code
    with concurrent.futures.ThreadPoolExecutor(len(names)) as pool:
        return list(pool.map(put, names))


def test_sixty_uploads_at_once_all_succeed(cluster):
    assert put_tables(cluster, [f"many-{i}" for i in range(60)]) == [201] * 60


@contextlib.contextmanager
def unfinished_uploads(cluster, count, size):
    """Clients that have sent `size` bytes of a large body and then nothing more."""
    url = urlsplit(cluster.url)
    with contextlib.ExitStack() as open_ones:
        for i in range(count):
            connection = open_ones.enter_context(socket.create_connection((url.hostname, url.port)))
            connection.sendall(b"PUT /api/v1/datasets/slow-%d?file=t.csv HTTP/1.1\r\nHost: %s\r\n"
                               b"Content-Length: 50000000\r\n\r\n" % (i, url.netloc.encode()) + b"a" * size)
        yield


def test_clients_that_send_one_byte_keep_nobody_out(cluster):
    before = cluster.metrics("gateway")["slipway_gateway_uploads"]
    with unfinished_uploads(cluster, 140, 1):
        wait_for(lambda: cluster.metrics("gateway")["slipway_gateway_uploads"] >= before + 140, 30, "140 begun uploads")
        begin = time.monotonic()
        assert put_tables(cluster, ["among-them"]) == [201]
        assert time.monotonic() - begin < 10


def test_a_killed_gateway_gives_its_places_back(start):
    cluster = start()
    opened = 'slipway_registry_requests_total{code="ok",kind="openUpload"}'
    with unfinished_uploads(cluster, 128, (1 << 20) + 1):
        # All places that a gateway may have are taken.
        wait_for(lambda: cluster.metrics("registry").get(opened, 0) >= 128, 30, "128 open uploads")
        cluster.wait_restarted("gateway", cluster.kill("gateway"))
        cluster.wait_ready()
        begin = time.monotonic()
        assert put_tables(cluster, [f"after-{i}" for i in range(10)]) == [201] * 10
        assert time.monotonic() - begin < 15


def test_an_upload_that_the_registry_has_forgotten_is_to_be_sent_again(cluster):
    opened = 'slipway_registry_requests_total{code="ok",kind="openUpload"}'
    before = cluster.metrics("registry").get(opened, 0)
    url = urlsplit(cluster.url)
    form = (b'--x\r\nContent-Disposition: form-data; name="signature"\r\n\r\n'
            b'{"inputs": [{"name": "x", "dtype": "f32", "shape": [-1, 4]}]}\r\n'
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="m.pt"\r\n\r\n', b"a" * (3 << 20), b"\r\n--x--\r\n")
    with socket.create_connection((url.hostname, url.port), timeout=60) as connection:
        connection.sendall(b"POST /api/v1/models/forgotten/versions HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n"
                           b"Content-Type: multipart/form-data; boundary=x\r\nConnection: close\r\n\r\n"
                           % (url.netloc.encode(), sum(map(len, form))) + form[0] + form[1][:2 << 20])
        wait_for(lambda: cluster.metrics("registry").get(opened, 0) > before, 30, "the upload's place")
        cluster.wait_restarted("registry", cluster.kill("registry"))
        cluster.wait_ready()
        connection.sendall(form[1][2 << 20:] + form[2])
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 503") and b"Retry-After" in answer, answer


class Gigabyte:
    """A body of 1 GiB that is never in memory: a CSV of one row again and again."""

    row = (",".join(["0.123456789"] * 85) + "\n").encode()
    header = (",".join(f"c{i}" for i in range(85)) + "\n").encode()

    def __init__(self, size):
        self.rows = size // len(self.row)

    def __iter__(self):
        yield self.header
        block = self.row * 1000
        for _ in range(self.rows // 1000):
            yield block


@measures_memory
def test_a_gigabyte_passes_in_bounded_memory(start):
    cluster = start()
    before = {role: cluster.rss_mib(role) for role in ("gateway", "registry")}
    peak = dict(before)

    def watch():
        for role in peak:
            peak[role] = max(peak[role], cluster.rss_mib(role))

    def body():
        for block in Gigabyte(1 << 30):
            watch()
            yield block

    begin = time.monotonic()
    answer = cluster.request("PUT", "/api/v1/datasets/large?file=large.csv", data=body(), timeout=900)
    watch()
    assert answer.status_code == 201, answer.text
    size = answer.json()["size_bytes"]
    assert size > (1 << 30) * 0.99
    print({role: f"+{peak[role] - before[role]:.0f} MiB" for role in peak}, f"{size / 2**20 / (time.monotonic() - begin):.0f} MiB/s")
    assert peak["gateway"] - before["gateway"] < 64
    assert peak["registry"] - before["registry"] < 256


def test_a_full_disk_refuses_writes_keeps_reads_and_recovers(start, tmp_path):
    library = pathlib.Path(__file__).resolve()
    import os
    library = pathlib.Path(os.environ["SLIPWAY_BIN"]).parent / "lib" / "libslipway_full_disk.so"
    assert library.exists(), library
    full = tmp_path / "full"
    state = tmp_path / "state"
    state.mkdir()
    cluster = start(keep=state, env={"LD_PRELOAD": str(library), "FULL_DISK_WHEN": str(full),
                                     "FULL_DISK_UNDER": str(state / "registry")})
    assert cluster.put_dataset("stripes", four_files()).status_code == 201
    cluster.train(small_job())
    registry = cluster.service("registry")["pid"]
    full.touch()
    refusal = cluster.put_dataset("more", four_files(seed=9))
    assert refusal.status_code == 503 and "Retry-After" in refusal.headers, refusal.text
    job = cluster.post("/api/v1/jobs", json=small_job())
    assert job.status_code == 503 and "Retry-After" in job.headers, job.text
    assert cluster.get("/api/v1/models/stripes").json()["latest"] == 1
    assert cluster.get("/api/v1/datasets/stripes").status_code == 200
    assert cluster.predict("stripes", [[[0] * 8] * 8]).status_code == 200
    full.unlink()
    wait_for(lambda: cluster.put_dataset("more", four_files(seed=9)).status_code == 201, 60, "room being noticed")
    cluster.train(small_job(seed=8))
    assert cluster.get("/api/v1/models/stripes").json()["latest"] == 2
    assert cluster.service("registry")["pid"] == registry, "the registry must not have needed a restart"


def test_a_limit_that_no_record_of_a_file_could_hold_ends_the_registry_at_once(tmp_path):
    ended = subprocess.run([BIN / "slipway-registry", f"--data-dir={tmp_path}", "--max-upload-bytes=1000000000000"],
                           capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1 and "max-upload-bytes 1000000000000: at most 419430400000" in ended.stderr, ended


def test_gzip_bombs_stop_at_the_limit(start):
    cluster = start("--registry-arg=--max-upload-bytes=2000000")
    bomb = gzip.compress(b"a\n" + b"1\n" * 20_000_000)
    assert len(bomb) < 100_000
    answer = cluster.put_dataset("bomb", {"t.csv.gz": bomb})
    assert answer.status_code == 413 and "2000000" in answer.text, answer.text
