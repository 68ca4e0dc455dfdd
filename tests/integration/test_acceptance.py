"""The figures Slipway promises on real data. Minutes, not seconds."""

import json

import pytest

from cluster import ROOT, fashion_files, wait_for


@pytest.fixture(scope="module")
def fashion(cluster):
    answer = cluster.put_dataset("fashion-mnist", fashion_files())
    assert answer.status_code == 201, answer.text
    assert answer.json()["rows"] == 60_000 and answer.json()["test_rows"] == 10_000
    assert answer.json()["classes"] == 10 and answer.json()["row_shape"] == [28, 28]
    return cluster


def accuracy_through_the_gateway(cluster, model):
    import gzip

    import numpy
    images_file, labels_file = fashion_files()[2:]
    images = numpy.frombuffer(gzip.decompress(images_file.read_bytes()), numpy.uint8, offset=16).reshape(-1, 28, 28)
    labels = numpy.frombuffer(gzip.decompress(labels_file.read_bytes()), numpy.uint8, offset=8)
    right = 0
    for start in range(0, len(images), 100):
        answer = cluster.predict(model, images[start:start + 100].tolist())
        assert answer.status_code == 200, answer.text
        right += int((numpy.argmax(answer.json()["predictions"], axis=1) == labels[start:start + 100]).sum())
    return right / len(images)


@pytest.mark.parametrize("document, least", [("mlp.json", 0.87), ("cnn.json", 0.90)])
def test_fashion_mnist_accuracy(fashion, document, least):
    job = json.loads((ROOT / "examples" / "fashion-mnist" / document).read_text())
    assert job["fit"]["epochs"] == 5
    job["publish"]["model"] = document.removesuffix(".json")
    done = fashion.train(job, seconds=1200)
    model = job["publish"]["model"]
    wait_for(lambda: fashion.predict(model, [[[0] * 28] * 28]).status_code == 200, 60)
    accuracy = accuracy_through_the_gateway(fashion, model)
    version = fashion.get(f"/api/v1/models/{model}/versions/{done['version']}").json()
    print(f"{document}: test accuracy {accuracy:.4f}")
    assert accuracy >= least
    assert version["metrics"]["test_accuracy"] == pytest.approx(accuracy, abs=0.0005), "what was measured is what is served"
