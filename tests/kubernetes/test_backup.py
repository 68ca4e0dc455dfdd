"""A backup is made while predictions go on, and what comes back from it is what there was: into a release that runs, and onto
a volume that is new."""

import json
import random
import subprocess
import types

import pytest
import requests

from jobs import Jobs, items, picture, put_dataset
from kube import CHART, KUBECTL, Release, wait_for
from load import Load

MODEL = "drill"
DATA = "helm-test"  # the data set that `helm test` leaves: y = 2 x + 1
LATE = "falling"    # y = -x
CRON_JOB = CLAIM = "demo-slipway-registry-backup"


def train(release, dataset, seed):
    """The number of the version that comes of it."""
    document = json.loads((CHART / "files" / "test" / "job.json").read_text())
    document |= {"publish": {"model": MODEL}, "dataset": {"name": dataset, "target": "y"}, "seed": seed}
    return Jobs(release, [document]).wait_ended("SUCCEEDED", 120)[0]["version"]


def point(release, version):
    answer = release.request("PUT", f"/api/v1/models/{MODEL}/aliases/live", json={"version": version})
    assert answer.status_code == 200, answer.text


@pytest.fixture(scope="module")
def release():
    found = Release("backup")
    found.install("gateway.shutdown.delaySeconds=1")
    found.wait_settled()
    found.helm("test", "--timeout", "180s")
    numbers = random.Random(1)
    put_dataset(found, "bulk", [(numbers.random(), numbers.random()) for _ in range(200_000)])
    assert [train(found, DATA, seed) for seed in (1, 2)] == [1, 2]
    point(found, 1)
    point(found, 2)
    yield found
    found.remove()


def predicted(release, version=None, gateway=None):
    """What a version, or the latest, makes of 3; None: it answers nothing."""
    path = f"/v1/models/{MODEL}" + (f"/versions/{version}" if version else "") + ":predict"
    url = f"http://{gateway}:8080" if gateway else release.url()
    answer = requests.post(url + path, json={"instances": [[3.0]]}, timeout=30)
    if answer.status_code != 200:
        return None
    value = answer.json()["predictions"][0]
    return value[0] if isinstance(value, list) else value


def wait_predicted(release, value, version=None):
    wait_for(lambda: predicted(release, version) == pytest.approx(value, abs=0.3), 60, f"{value} from version {version}")


def wait_latest(release, version):
    def look():
        answer = release.request("GET", f"/api/v1/models/{MODEL}")
        return answer.status_code == 200 and answer.json()["latest"] == version
    wait_for(look, 60, f"version {version} as the latest")


def ended(job):
    return [c["type"] for c in job["status"].get("conditions", []) if c["type"] in ("Complete", "Failed") and c["status"] == "True"]


def make_backup(release, name):
    """Runs a Job of the CronJob's; the backup that it had made."""
    release.kubectl("create", "job", f"--from=cronjob/{CRON_JOB}", name)
    end = wait_for(lambda: ended(release.get("jobs", name)), 120, "the Job's end")
    assert end == ["Complete"], release.kubectl("logs", f"job/{name}", check=False).stdout
    return items(release, "/backups")[-1]


@pytest.fixture(scope="module")
def kept(release):
    """Backups are switched on in the release that runs: by the schedule first, then by hand."""
    before = picture(release)
    others = release.uids("gateway", "inferencer", "trainer")
    release.upgrade("registry.backup.enabled=true", "registry.backup.destination.size=1Gi", "registry.backup.schedule=* * * * *")
    release.wait_settled("registry")
    assert picture(release) == before
    assert release.uids("gateway", "inferencer", "trainer") == others

    def scheduled():
        return [job for job in release.list("jobs") if ended(job)]
    found = wait_for(scheduled, 130, "a Job of the schedule")
    release.upgrade("registry.backup.suspend=true")
    assert ended(found[0]) == ["Complete"], found[0]
    assert [owner["kind"] for owner in found[0]["metadata"]["ownerReferences"]] == ["CronJob"]
    backups = items(release, "/backups")
    assert backups and all(one["state"] == "SUCCEEDED" for one in backups), backups

    with Load(release, node="node3") as load, load.watched() as seen:
        made = make_backup(release, "first")
    assert picture(release) == before
    return types.SimpleNamespace(picture=before, scheduled=backups[0], backup=made, seen=seen)


def test_a_backup_is_made_and_no_prediction_fails(release, kept):
    kept.seen.assert_nothing_failed()
    assert kept.backup["id"] != kept.scheduled["id"]
    assert kept.backup["state"] == "SUCCEEDED" and kept.backup["damaged_chunks"] == 0, kept.backup
    shown = release.metrics("registry")
    assert shown["slipway_registry_last_backup_bytes"] == kept.backup["size_bytes"]
    assert shown["slipway_registry_last_backup_timestamp_seconds"] > 1e9


def test_the_next_backup_copies_what_is_new(release, kept):
    assert kept.backup["size_bytes"] > 7_000_000
    assert kept.scheduled["copied_bytes"] > 7_000_000 > 4 * kept.backup["copied_bytes"], (kept.scheduled, kept.backup)


def test_a_release_that_runs_goes_back_to_its_backup(release, kept):
    put_dataset(release, LATE, [(x / 8, -x / 8) for x in range(-32, 32)])
    assert train(release, LATE, 3) == 3
    wait_predicted(release, -3)
    others = release.uids("gateway", "inferencer", "trainer")
    with Load(release, node="node3") as load, load.watched() as seen:
        release.upgrade("registry.restore.enabled=true", f"registry.restore.from={kept.backup['id']}",
                        "registry.restore.replace=true")
        release.wait_settled("registry")
        wait_latest(release, 2)
    seen.assert_nothing_failed()
    assert release.uids("gateway", "inferencer", "trainer") == others
    assert picture(release) == kept.picture
    wait_predicted(release, 7)
    wait_for(lambda: predicted(release, 3) is None, 60, "the later version gone")

    # Its number is given again, and what is asked for by it is the new one, wherever it is asked.
    assert train(release, DATA, 4) == 3
    for pod in release.ready_pods("gateway"):
        address = pod["status"]["podIP"]
        wait_for(lambda at=address: predicted(release, 3, at) is not None, 60, "the new version served")
        assert [predicted(release, 3, address) for _ in range(20)] == [pytest.approx(7, abs=0.3)] * 20

    # The next start of the pod does not go back once more.
    uid = release.uids("registry")
    release.kubectl("delete", "pod", "demo-slipway-registry-0")
    wait_for(lambda: release.pods("registry") and release.uids("registry") != uid, 60, "another pod")
    release.wait_settled("registry")
    wait_latest(release, 3)


def test_a_downloaded_backup_is_one_again_where_it_is_unpacked(release, kept):
    path = f"/api/v1/backups/{kept.backup['id']}"
    archive = release.request("GET", f"{path}/content").content
    assert len(archive) > kept.backup["size_bytes"]
    assert release.request("DELETE", path).status_code == 204
    assert release.request("GET", path).status_code == 404
    subprocess.run([KUBECTL, "-n", release.namespace, "exec", "-i", "demo-slipway-registry-0", "-c", "registry", "--", "tar", "-xf",
                    "-", "-C", "/var/backups/slipway"], input=archive, check=True, timeout=120)
    assert release.api(f"/backups/{kept.backup['id']}") == kept.backup


def test_what_was_on_a_lost_volume_comes_back(release, kept):
    release.upgrade("registry.replicaCount=0")
    release.wait_gone("registry")
    release.kubectl("delete", "pvc", "data-demo-slipway-registry-0")
    release.upgrade("registry.replicaCount=1", "registry.restore.enabled=true", f"registry.restore.from={kept.backup['id']}",
                    "registry.restore.replace=false")
    release.wait_settled("registry")
    wait_latest(release, 2)
    assert picture(release) == kept.picture
    wait_predicted(release, 7)


def test_backups_outlive_the_release(release, kept):
    release.uninstall()
    assert CLAIM in [claim["metadata"]["name"] for claim in release.list("persistentvolumeclaims")]
