"""Small image sets in MNIST's four files, made on the spot and learnable."""

import gzip
import random
import struct


def idx(shape, data):
    return struct.pack(">BBBB", 0, 0, 8, len(shape)) + struct.pack(f">{len(shape)}I", *shape) + bytes(data)


def four_files(rows=600, test_rows=60, side=8, classes=4, seed=1, compress=False):
    """Each class lights up another stripe of the image, under noise."""
    rng = random.Random(seed)

    def make(count):
        images, labels = bytearray(), bytearray()
        for i in range(count):
            label = i % classes
            labels.append(label)
            for y in range(side):
                for _ in range(side):
                    lit = y * classes // side == label
                    images.append(min(255, (180 if lit else 20) + rng.randrange(60)))
        return idx((count, side, side), images), idx((count,), labels)

    train_images, train_labels = make(rows)
    test_images, test_labels = make(test_rows)
    files = {"train-images-idx3-ubyte": train_images, "train-labels-idx1-ubyte": train_labels,
             "t10k-images-idx3-ubyte": test_images, "t10k-labels-idx1-ubyte": test_labels}
    if compress:
        return {name + ".gz": gzip.compress(data) for name, data in files.items()}
    return files


def sequential(*layers, shape):
    """A Keras 3 Sequential document."""
    def layer(class_name, config):
        return {"module": "keras.layers", "class_name": class_name, "config": config, "registered_name": None}
    return {"module": "keras", "class_name": "Sequential", "registered_name": None, "config": {
        "name": "sequential", "layers": [
            layer("InputLayer", {"batch_shape": [None, *shape], "dtype": "float32", "name": "input"}),
            *[layer(name, {"name": f"{name.lower()}_{i}", **config}) for i, (name, config) in enumerate(layers)]]}}


def small_job(model="stripes", dataset="stripes", side=8, classes=4, epochs=2, seed=7, **extra):
    document = {
        "publish": {"model": model}, "dataset": dataset, "seed": seed,
        "model": sequential(("Rescaling", {"scale": 1 / 255}), ("Flatten", {}),
                            ("Dense", {"units": 16, "activation": "relu"}), ("Dropout", {"rate": 0.2}),
                            ("Dense", {"units": classes, "activation": "softmax"}), shape=(side, side)),
        "compile": {"optimizer": {"class_name": "Adam", "config": {"learning_rate": 0.01}},
                    "loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]},
        "fit": {"epochs": epochs, "batch_size": 16, "validation_split": 0.1, "shuffle": True}}
    document.update(extra)
    return document
