"""Five hundred uploaded files that want to do harm, beside a good model under load.

Whatever they do, the good model answers every request with its own numbers, no inferencer ends, and no number of one
request comes out in another's answer.
"""

import concurrent.futures
import ctypes
import io
import json
import os
import pathlib
import random
import signal
import struct
import subprocess
import threading
import time
import zipfile

import pytest

from cluster import BIN, SANITIZER, measures_memory, wait_for
from idx import sequential, small_job

torch = pytest.importorskip("torch")

SEED = 20_260_724
WIDTH = 4
ROOT = "net"
LEAST = -2**63
FIRST = 1_000_003.0  # of the good model's numbers, which no other request holds
OWN = 7_000_003.0  # likewise of the first hostile model's, sixteen further on for each of the others


# --- files by hand: a TorchScript archive is a zip archive with pickles and source ---

HEAD = "class net(Module):\n  __parameters__ = []\n  __buffers__ = []\n  training : bool\n"
VERSION = b"3\n"


def source(body, attributes="", result="Tensor"):
    lines = "".join(f"    {line}\n" for line in body.strip("\n").split("\n"))
    return f"{HEAD}{attributes}  def forward(self: __torch__.net, x: Tensor) -> {result}:\n{lines}"


def text(value):
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def pickled(attributes=b""):
    """An object of class net with `training` and these attributes, as pickled pairs."""
    return b"\x80\x02c__torch__\nnet\n)\x81}(" + text("training") + b"\x89" + attributes + b"ub."


def archive(code=None, data=None, constants=b"\x80\x02).", extra=(), root=ROOT, method=zipfile.ZIP_STORED, omit=()):
    entries = [("data.pkl", pickled() if data is None else data), ("code/__torch__.py", (source("return x * 2") if code is None else code).encode()),
               ("constants.pkl", constants), ("version", VERSION), *extra]
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name, content in entries:
            if name not in omit:
                file.writestr(zipfile.ZipInfo(f"{root}/{name}"), content, compress_type=method)
    return out.getvalue()


def save(module):
    out = io.BytesIO()
    torch.jit.save(torch.jit.script(module.eval()), out)
    return out.getvalue()


GOOD = archive()


def moved(data, by, at=0):
    """A zip archive whose entries and directory from byte `at` on stand `by` bytes later; its offsets say so."""
    end = data.rindex(b"PK\5\6")
    count, = struct.unpack_from("<H", data, end + 10)
    start, = struct.unpack_from("<I", data, end + 16)
    out = bytearray(data)
    place = start
    for _ in range(count):
        name, more, comment = struct.unpack_from("<HHH", data, place + 28)
        offset, = struct.unpack_from("<I", data, place + 42)
        if offset >= at:
            struct.pack_into("<I", out, place + 42, offset + by)
        place += 46 + name + more + comment
    struct.pack_into("<I", out, end + 16, start + by)
    return bytes(out)


# --- the corpus: (what it is, bytes, what is predicted with it) ---

def structural(rng):
    """What no model is, found without loading anything."""
    whole = save(torch.nn.Linear(WIDTH, 2))
    for _ in range(60):
        yield "cut off", whole[:rng.randrange(len(whole))]
    for _ in range(60):
        data = bytearray(rng.choice((whole, GOOD)))
        # Not in the weights: with other weights it is another good model.
        for _ in range(rng.choice((1, 2, 16))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        yield "bits flipped", bytes(data)
    for _ in range(30):
        data = bytearray(GOOD)
        at = rng.randrange(len(data))
        count = rng.randrange(1, 40)
        data[at:at + count] = rng.randbytes(count if rng.random() < 0.5 else rng.randrange(40))
        yield "bytes replaced", bytes(data)
    for _ in range(8):
        data = bytearray(GOOD)
        data[4:8] = b"PTMF"
        yield "a flatbuffer's mark", bytes(data) + (rng.randbytes(100) if rng.random() < 0.5 else b"")
    # As a flatbuffer, whose root is where the zip's mark says: far behind, in what both think is padding.
    for _ in range(8):
        front = b"PK\3\4PTMF" + rng.randbytes(rng.randrange(8, 400))
        yield "a flatbuffer before a zip", front + moved(GOOD, len(front))
    for _ in range(10):
        front = rng.choice((b"#!/bin/sh\n", b"\x7fELF", b"\x80\x02", b"MZ")) + rng.randbytes(rng.randrange(100))
        yield "bytes before", front + (moved(GOOD, len(front)) if rng.random() < 0.5 else GOOD)
    second = GOOD.index(b"PK\3\4", 4)
    for _ in range(10):
        gap = rng.randbytes(rng.randrange(1, 300))
        yield "bytes between", moved(GOOD, len(gap), second)[:second] + gap + moved(GOOD, len(gap), second)[second:]
    for _ in range(10):
        yield "bytes after", GOOD + rng.randbytes(rng.randrange(1, 300))
    for name in ("CODE/__torch__.py", "code/__torch__.PY", "code/__torch__.py.DEBUG_PKL", "DATA.PKL", "Data/0", "../x",
                 "code/../../x", "data//0", "model.json", "code/x\\y.py", "code/a:b.py", "/etc/passwd", "mobile.ff",
                 "data.pkl/x", "constants.PKL"):
        yield "a name", archive(extra=((name, b"x"),))
    yield "another folder", archive()[:-22] + archive(root="other")
    for name in ("data.pkl", "constants.pkl", "version", "code/__torch__.py"):
        yield "something missing", archive(omit=(name,))
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        yield "packed", archive(extra=(("data/0", bytes(100_000)),), method=method)
    yield "a bomb", archive(extra=(("code/big.py", b"#" * (80 << 20)),), method=zipfile.ZIP_DEFLATED)

    for depth in (33, 100, 3_000, 34_898, 100_000):
        for nest in (b"]" * depth + b"a" * (depth - 1), b"N" + b"\x85" * depth, b"(" * depth + b"t" * depth):
            yield "a deep pickle", archive(data=pickled(text("a") + nest))
    for data in (b"\x80\x02]q\0h\0a.", b"\x80\x02}q\0(X\1\0\0\0ah\0u.", b"\x80\x02Nr\xff\xff\xff\x7f.", b"\x80\x02}(Nu.",
                 b"\x80\x02((t.", b"\x80\x02h\7.", b"\x80\x02X\xff\xff\xff\xff.", b"\x80\x04N.", b"", b"."):
        yield "a pickle that is none", archive(data=data)
    for name in ("os\nsystem", "builtins\neval", "torch\nload", "torch.storage\n_load_from_bytes", "posix\nsystem",
                 "__torch__.torch.classes.quantized\nConv2dPackedParamsBase",
                 "__torch__.torch.classes.quantized\nEmbeddingPackedParamsBase", "torch.jit._pickle\nbuild_x"):
        for call in (b"", b")R", b")\x81}b"):
            yield "a foreign class", archive(data=b"\x80\x02c" + name.encode() + b"\n" + call + b".")
    storage = b"ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + \
        text("cpu") + b"J%stQK\0(K\2t(K\1t\x89ccollections\nOrderedDict\n)RtR"
    for count in (3, 2**31 - 1, -1):
        yield "a short storage", archive(data=pickled(text("w") + storage.replace(b"%s", struct.pack("<i", count))),
                                         extra=(("data/0", bytes(8)),))

    calls = ("from_file('/etc/passwd', False, 4)", "save(x, '/tmp/x')", "as_strided(x, [100], [1], 0)", "empty([4])",
             "load('/etc/passwd')", "set_(x, x)", "resize_(x, [100])", "_unsafe_index(x, [])", "empty_strided([4], [1])",
             "_foobar(x)", "manual_seed(1)", "_nested_tensor_from_tensor_list([x])", "quantize_per_tensor(x, 1, 0, 13)")
    for call in calls:
        name, rest = call.split("(", 1)
        for written in (f"torch.{name}({rest}", f"torch . {name} ({rest}", f"torch.{name} \\\n      ({rest}",
                        f"ops.aten.{name}({rest}", f"ops . aten . {name}\\\n     ({rest}"):
            yield "a call", archive(source(f"y = {written}\nreturn x"))
    for call in ("PythonOp(x)", "tolist(x, 1, 1)", "TupleIndex((x, x), 7)", "TupleUnpack((x, x))", "CreateObject()",
                 "unchecked_cast(x)", "Print(x)", "AutogradZero()", "fork(x)", "Uninitialized()"):
        yield "a primitive", archive(source(f"y = ops.prim.{call}\nreturn x"))
    for depth in (201, 5_000, 200_000):
        yield "brackets", archive(source("return " + "(" * depth + "x" + ")" * depth))
    yield "blocks", archive(source("\n".join("  " * i + "if True:" for i in range(400)) + "\n" + "  " * 400 + "y = 1\nreturn x"))
    for hook in ("__setstate__(self: __torch__.net, state: int) -> None", "__getstate__(self: __torch__.net) -> int"):
        yield "a hook", archive(source("return x") + f"  def {hook}:\n    return 1\n")


def of_wrong_types(rng):
    """Slots, tuples and objects that are not what the code says; found once the module is loaded."""
    yield "a bool for an int", archive(source("return x * self.n", "  n : int\n"), pickled(text("n") + b"\x88"))
    yield "a tensor for none", archive(source("return x * self.n", "  n : int\n"), pickled(text("n") + b"N"))
    yield "a short tuple", archive(source("a, b, c = self.t\nreturn x * c", "  t : Tuple[int, int, int]\n"),
                                   pickled(text("t") + b"K\1\x85"))
    yield "a tuple for an object", archive(
        source("return x * self.b.a9", "  b : __torch__.big\n") + "class big:\n" +
        "".join(f"  a{i} : int\n" for i in range(10)), pickled(text("b") + b"K\1K\2\x86"))
    small = "class small:\n  a0 : int\nclass big:\n" + "".join(f"  a{i} : int\n" for i in range(rng.randrange(20, 2000)))
    yield "a small object for a big one", archive(
        small + source("return x * self.b.a19", "  b : __torch__.big\n"),
        pickled(text("b") + b"c__torch__\nsmall\n)\x81}(" + text("a0") + b"K\1ub"))
    yield "a cast", archive(source("a, b, c = unchecked_cast(Tuple[Tensor, Tensor, Tensor], (x, x))\nreturn c"))
    yield "a cast to a class", archive(source("y = unchecked_cast(__torch__.net, x)\nreturn (x, y)",
                                              result="Tuple[Tensor, __torch__.net]"))
    yield "fresh memory", archive(source("return torch.empty_like(x)"))
    yield "a while", archive(source("while bool(torch.gt(torch.sum(x), -1.)):\n  x = torch.add(x, 1)\nreturn x"))
    yield "a method call", archive(source("return x.as_strided([100], [1], 0)"))
    yield "another device", archive(source("return torch.to(x, torch.device(\"meta\"))"))
    yield "a data type", archive(source("return torch.to(x, 99)"))
    yield "a long loop", archive(source("for i in range(4000000000):\n  x = torch.add(x, 1)\nreturn x"))
    yield "sixteen rows", archive(source("n = torch.remainder(7, torch.sub(16, torch.size(x, 0)))\nreturn x * n"))


# A number of the request chooses what is done: the trials with zeros are harmless.
DIVISIONS = ("torch.remainder(7, n)", "torch.floordiv(7, n)", "(torch.divmod(7, n))[0]")
TENSOR_DIVISIONS = ("torch.div(a, b, rounding_mode=\"floor\")", "torch.div(a, b, rounding_mode=\"trunc\")",
                    "torch.floor_divide(a, b)", "torch.remainder(a, b)", "torch.fmod(a, b)", "torch.remainder_(a, b)",
                    "torch.div_(a, b, rounding_mode=\"floor\")")


def by_value(rng):
    for call in DIVISIONS:
        yield "divides by zero", archive(source(f"n = torch.sub(1, int(torch.sum(x)))\nreturn torch.add(x, {call})"))
    for call in TENSOR_DIVISIONS:
        yield "divides the least by -1", archive(source(
            "s = torch.to(torch.sum(x, [1]), 4)\n"
            f"a = torch.mul(torch.ones_like(s), {LEAST + 1})\na = torch.sub(a, torch.to(torch.ne(s, 0), 4))\n"
            f"b = torch.sub(torch.ones_like(s), torch.mul(torch.to(torch.ne(s, 0), 4), 2))\nreturn {call}"))
    for name, dims in (("reflection_pad1d", 1), ("replication_pad1d", 1), ("reflection_pad2d", 2)):
        yield "pads", archive(source(
            "n = torch.neg(int(torch.gt(torch.sum(x), 0)))\n"
            f"y = torch.{name}(torch.ones([3, 2, 4, 4]), [1, n{', 0, 0' if dims == 2 else ''}])\nreturn x"))
    yield "shuffles", archive(source(
        "n = torch.add(1, torch.mul(4294967295, int(torch.gt(torch.sum(x), 0))))\n"
        "y = torch.pixel_shuffle(torch.ones([1, 4, 2, 2]), n)\nreturn x"))
    yield "a data type by value", archive(source(
        "n = torch.add(6, torch.mul(90, int(torch.gt(torch.sum(x), 0))))\nreturn torch.to(x, n)"))
    yield "an index by value", archive(source("return x[:, torch.mul(int(torch.sum(x)), 1000000)]"))
    yield "raises", archive(source("if bool(torch.gt(torch.sum(x), 0)):\n  ops.prim.RaiseException(\"no\")\nreturn x"))


class Keeper(torch.nn.Module):
    """Keeps what it is given, and answers with what it was given before."""

    def __init__(self):
        super().__init__()
        self.kept = torch.zeros(1, 4)

    def forward(self, x):
        before = self.kept
        self.kept = x
        return torch.zeros_like(x) + before.flatten()[:4]


class ListKeeper(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.kept = torch.jit.Attribute([torch.zeros(1, 4)], list[torch.Tensor])

    def forward(self, x):
        self.kept.append(x)
        return torch.zeros_like(x) + self.kept[len(self.kept) // 2].flatten()[:4]


class Scribbler(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.kept = torch.zeros(1, 4)

    def forward(self, x):
        self.kept.fill_(-777.0)
        self.kept = x
        return x * 1


class Hoarder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.items = torch.jit.Attribute([torch.zeros(1)], list[torch.Tensor])

    def forward(self, x):
        self.items.append(torch.ones(250_000))
        return x * len(self.items)


class SmallHoarder(torch.nn.Module):
    """Keeps many lists of one number each."""

    def __init__(self):
        super().__init__()
        self.items = torch.jit.Attribute([[0]], list[list[int]])

    def forward(self, x):
        self.items.append([0])
        if bool(x.sum() > 0):
            for i in range(1_500_000):
                self.items.append([i])
        return x * len(self.items)


class SmallLists(torch.nn.Module):
    def forward(self, x):
        made = [[0]]
        if bool(x.sum() > 0):
            for i in range(20_000_000):
                made.append([i])
        return x * len(made)


class SmallTexts(torch.nn.Module):
    def forward(self, x):
        made = [""]
        if bool(x.sum() > 0):
            for i in range(20_000_000):
                made.append(str(i))
        return x * len(made)


class SmallTensors(torch.nn.Module):
    def forward(self, x):
        made = [x]
        if bool(x.sum() > 0):
            for i in range(20_000_000):
                made.append(torch.ones([1]) * i)
        return x * len(made)


class Flood(torch.nn.Module):
    def forward(self, x):
        n = int((x.sum() > 0).item())
        return torch.zeros(x.size(0), 1 + 100_000_000 * n, 1 - n)


class Greedy(torch.nn.Module):
    def forward(self, x):
        n = int((x.sum() > 0).item())
        return x * torch.ones(1 + n * 400_000_000).sum()


class Big(torch.nn.Module):
    def forward(self, x):
        n = int((x.sum() > 0).item())
        return torch.ones(x.size(0), 1 + n * 30_000_000)


class Many(torch.nn.Module):
    def forward(self, x):
        return [x * i for i in range(200)]


class TooMany(torch.nn.Module):
    def forward(self, x):
        n = int((x.sum() > 0).item())
        return [x * i for i in range(1 + 10_000 * n)]


class Zero(torch.nn.Module):
    def forward(self, x):
        return x[:, :0]


class Slow(torch.nn.Module):
    """Each run takes so many products of square matrices."""

    def __init__(self, size=64, products=50):
        super().__init__()
        self.size, self.products = size, products

    def forward(self, x):
        y = torch.ones(self.size, self.size)
        for _ in range(self.products):
            y = (y @ y) * 0.01
        return x + y.sum() * 0


def stateful():
    for kind in (Keeper, ListKeeper, Scribbler):
        for _ in range(2):
            yield kind.__name__, save(kind())
    for kind in (Hoarder, Flood, Greedy, Big, Many, TooMany, Zero, Slow, SmallHoarder, SmallLists, SmallTexts, SmallTensors):
        yield kind.__name__, save(kind())


def corpus():
    rng = random.Random(SEED)
    files = [*structural(rng), *of_wrong_types(rng), *by_value(rng), *stateful()]
    # To five hundred, of what is cheap to refuse.
    while len(files) < 500:
        data = bytearray(rng.choice(files[:60])[1] or b"PK")
        for _ in range(8):
            data[rng.randrange(len(data))] = rng.randrange(256)
        files.append(("changed once more", bytes(data)))
    rng.shuffle(files)
    return files


# --- the good model, all the while ---

class Load:
    """Predicts with the good model from a few threads, each number marked, and checks every answer."""

    def __init__(self, cluster, threads=2):
        self.cluster = cluster
        self.failures = []
        self.answered = 0
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self.run, args=(i,), daemon=True) for i in range(threads)]
        for thread in self.threads:
            thread.start()

    def run(self, number):
        import requests
        session = requests.Session()
        session.trust_env = False
        count = 0
        while not self.stopping.is_set():
            count += 1
            # Markers: no other request holds numbers like these.
            row = [FIRST + 16 * (number + 2 * (count % 1000)) + i for i in range(WIDTH)]
            try:
                answer = session.post(f"{self.cluster.url}/v1/models/good:predict", json={"instances": [row]}, timeout=60)
                if answer.status_code != 200 or answer.json()["predictions"] != [[2 * value for value in row]]:
                    self.failures.append(answer.text[:300])
            except requests.RequestException as error:
                self.failures.append(repr(error))
            self.answered += 1
            time.sleep(0.005)

    def stop(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join()


def upload(cluster, name, data, shape=(-1, WIDTH)):
    signature = {"inputs": [{"name": "x", "dtype": "f32", "shape": list(shape)}]}
    return cluster.post(f"/api/v1/models/{name}/versions", timeout=120, files=[
        ("signature", (None, json.dumps(signature), "application/json")),
        ("file", ("model.pt", data, "application/octet-stream"))])


def numbers_in(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from numbers_in(inner)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value


class Lstm(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = torch.nn.LSTM(1, 6, num_layers=2, bidirectional=True, batch_first=True)

    def forward(self, x):
        return self.rnn(x.unsqueeze(2))[0][:, -1]


class Gru(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = torch.nn.GRU(1, 6, batch_first=True)

    def forward(self, x):
        return self.rnn(x.unsqueeze(2))[0][:, -1]


class Encoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.wide = torch.nn.Linear(1, 8)
        self.encoder = torch.nn.TransformerEncoder(layer, 2)

    def forward(self, x):
        return self.encoder(self.wide(x.unsqueeze(2)))[:, 0]


class Attention(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.wide = torch.nn.Linear(1, 8)
        self.attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        y = self.wide(x.unsqueeze(2))
        return self.attention(y, y, y)[0].mean(1)


class Pictures(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.ReflectionPad2d(1), torch.nn.ReplicationPad2d(1), torch.nn.Conv2d(1, 4, 3, padding_mode="reflect", padding=1),
            torch.nn.BatchNorm2d(4), torch.nn.ReLU(inplace=True), torch.nn.PixelShuffle(2), torch.nn.Upsample(scale_factor=2),
            torch.nn.Dropout2d(), torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten())

    def forward(self, x):
        return self.layers(x.reshape(-1, 1, 2, 2))


class Numbers(torch.nn.Module):
    """Divides integers, and warns: as many do in good faith."""

    def forward(self, x):
        heads = x.size(1) // 2
        whole = torch.div(x.long(), 3, rounding_mode="floor") + x.long() % 5
        return torch.nn.functional.softmax(x) * heads + whole.view(x.size(0), heads, x.size(1) // heads).flatten(1) % 7


@pytest.mark.parametrize("way", ("script", "trace"))
def test_what_people_upload_in_good_faith_is_taken_and_computes_the_same(cluster, way):
    torch.manual_seed(SEED)
    rows = torch.randn(3, WIDTH)
    for kind in (Lstm, Gru, Encoder, Attention, Pictures, Numbers):
        module = kind().eval()
        with torch.no_grad():
            wanted = module(rows)
        out = io.BytesIO()
        torch.jit.save(torch.jit.script(module) if way == "script" else
                       torch.jit.trace(module, rows, check_trace=False), out)
        name = f"{kind.__name__}-{way}"
        answer = upload(cluster, name, out.getvalue())
        assert answer.status_code == 201, (name, answer.text)
        answer = wait_for(lambda n=name: (a := cluster.predict(n, rows.tolist())).status_code == 200 and a, 30, name)
        got = torch.tensor(answer.json()["predictions"])
        assert torch.allclose(got.to(wanted.dtype), wanted, atol=1e-4), (name, got, wanted)


def test_a_model_that_was_trained_here_can_be_uploaded_again(stripes):
    job = small_job(model="again")
    job["model"] = sequential(("Rescaling", {"scale": 1 / 255}), ("Flatten", {}), ("Dense", {"units": 16}),
                              ("BatchNormalization", {}), ("Dropout", {"rate": 0.2}),
                              ("Dense", {"units": 4, "activation": "softmax"}), shape=(8, 8))
    done = stripes.train(job)
    data = stripes.get(f"/api/v1/models/again/versions/{done['version']}/artifacts/model.pt").content
    answer = upload(stripes, "copy", data, shape=[-1, 8, 8])
    assert answer.status_code == 201, answer.text


def owner(number):
    """Whose requests hold this number: -1 the good model's, else which hostile one's; None: nobody's."""
    for first, count in ((FIRST, 2100), (OWN, 1000)):
        place, rest = divmod(number - first, 16)
        if 0 <= place < count and rest in range(WIDTH):
            return -1 if first == FIRST else int(place)
    return None


def leaked_to(index, numbers):
    """Neighbours that are neighbours in another model's request, or in the good model's answer, which is twice that."""
    def neighbours(a, b):
        return b - a == 1 and owner(a) == owner(b) and owner(a) not in (None, index)
    return [pair for pair in zip(numbers, numbers[1:])
            if neighbours(*pair) or neighbours(pair[0] / 2, pair[1] / 2)]


def test_what_comes_from_elsewhere_is_told_from_what_is_ones_own():
    assert leaked_to(3, [0.0, FIRST, FIRST + 1]) == leaked_to(3, [FIRST, FIRST + 1]) == [(FIRST, FIRST + 1)]
    assert leaked_to(3, [2 * FIRST + 32, 2 * FIRST + 34]) and leaked_to(3, [OWN + 64, OWN + 65])
    assert not leaked_to(3, [OWN + 48, OWN + 49, OWN + 50, OWN + 51, OWN + 64, 0.0, FIRST, 1.0, 2.0, 3.0e38, float("-inf")])


@pytest.mark.skipif(SANITIZER is not None, reason="hundreds of processes that load torch")
def test_five_hundred_hostile_files_do_no_harm(start):
    cluster = start("--inferencers", "2", "--inferencer-arg=--inspect-seconds=10", f"--inferencer-arg=--max-run-memory-bytes={256 << 20}")
    answer = upload(cluster, "good", GOOD)
    assert answer.status_code == 201, answer.text
    wait_for(lambda: cluster.predict("good", [[1.0] * WIDTH]).status_code == 200, 30, "the good model")
    before = {service["pid"] for service in cluster.services("inferencer")}
    load = Load(cluster)
    files = corpus()
    assert len(files) >= 500

    accepted = []

    def offer(item):
        index, (what, data) = item
        name = f"m{index}"
        answer = upload(cluster, name, data)
        for _ in range(60):
            if answer.status_code not in (429, 503):
                break
            time.sleep(0.25)
            answer = upload(cluster, name, data)
        assert answer.status_code in (201, 400, 413), (what, answer.status_code, answer.text)
        if answer.status_code == 201:
            accepted.append((what, index))

    def use(item):
        what, index = item
        leaked = []
        own = [OWN + 16 * index + i for i in range(WIDTH)]
        for row in (own, *([value] * WIDTH for value in (0.0, 1.0, -1.0, 3.0e38, float(-2**63)))):
            for _ in range(2):
                answer = cluster.post(f"/v1/models/m{index}:predict", timeout=60,
                                      json={"instances": [row, [0.0] * WIDTH]})
                if answer.status_code == 200:
                    leaked += leaked_to(index, list(numbers_in(answer.json())))
        assert not leaked, (what, leaked[:5])

    try:
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            list(pool.map(offer, enumerate(files)))
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            list(pool.map(use, accepted))
    finally:
        load.stop()

    kinds = {what for what, _ in accepted}
    assert {"divides by zero", "divides the least by -1", "pads", "shuffles", "a data type by value", "Keeper", "ListKeeper",
            "Scribbler", "Hoarder", "Flood", "Greedy", "Big", "SmallHoarder", "SmallLists", "SmallTexts", "SmallTensors"} <= kinds, kinds
    never = {"a flatbuffer's mark", "a flatbuffer before a zip", "bytes before", "bytes between", "bytes after",
             "a name", "a deep pickle", "a foreign class", "a call", "a primitive", "brackets", "a hook",
             "a short storage", "a short tuple", "a small object for a big one", "a bool for an int", "a cast",
             "fresh memory", "a while", "a method call", "another device", "a data type", "sixteen rows", "packed",
             "a bomb", "cut off", "a tensor for none", "a tuple for an object", "a cast to a class",
             "a pickle that is none", "something missing", "another folder", "a long loop", "blocks"}
    assert not kinds & never, kinds & never
    assert load.failures == [], (len(load.failures), load.answered, load.failures[:3])
    assert load.answered > 100
    after = {service["pid"] for service in cluster.services("inferencer")}
    assert after == before, "an inferencer ended: " + cluster.logs()[-3000:]


@measures_memory
def test_small_things_are_memory_too_and_what_is_kept_of_them_has_an_end(start):
    limit = 128 << 20
    cluster = start("--inferencers", "1", f"--inferencer-arg=--max-run-memory-bytes={limit}")

    def peak():
        status = pathlib.Path(f"/proc/{cluster.service('inferencer')['pid']}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) << 10

    before = cluster.service("inferencer")["pid"]
    for kind in (SmallLists, SmallTexts, SmallTensors, SmallHoarder):
        name = kind.__name__
        answer = upload(cluster, name, save(kind()))
        assert answer.status_code == 201, (name, answer.text)
        wait_for(lambda n=name: cluster.predict(n, [[0.0] * WIDTH]).status_code == 200, 30, name)
    start_peak = peak()
    for kind in (SmallLists, SmallTexts, SmallTensors):
        name = kind.__name__
        answer = cluster.predict(name, [[1.0] * WIDTH])
        assert answer.status_code == 413 and "--max-run-memory-bytes" in answer.text, (name, answer.status_code, answer.text)
        assert cluster.predict(name, [[0.0] * WIDTH]).status_code == 200, name
    # What is kept is gone once it was too much, and then it begins anew.
    refused = 0
    for _ in range(6):
        answer = cluster.predict("SmallHoarder", [[1.0] * WIDTH])
        assert answer.status_code in (200, 413), answer.text
        refused += answer.status_code == 413
        wait_for(lambda: (a := cluster.predict("SmallHoarder", [[0.0] * WIDTH])).status_code == 200
                 and a.json()["predictions"] is not None, 30, "an answer after what was kept has gone")
    assert refused >= 2
    # Twice the limit, for what runs while the last one's is not given back yet.
    assert peak() - start_peak < 2 * limit, (start_peak >> 20, peak() >> 20)
    assert cluster.service("inferencer")["pid"] == before


class Endless(torch.nn.Module):
    """Runs on for hours, when a number of the request says so."""

    def forward(self, x):
        y = torch.ones(16, 16)
        if bool(x.sum() > 0):
            for _ in range(1_000_000_000):
                y = (y @ y) * 0.01
        return x + y.sum() * 0


def cpu_ticks(pid):
    """Of each thread of a process."""
    ticks = {}
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        try:
            fields = (task / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        ticks[pid, int(task.name)] = int(fields[11]) + int(fields[12])
    return ticks


def crash_the_busy_thread(pids, seconds):
    """Sends SIGSEGV to the one thread of these processes that works, once it has for so long; returns its process.

    Nobody else has that much work in these tests.
    """
    def all_ticks():
        return {thread: ticks for pid in pids for thread, ticks in cpu_ticks(pid).items()}

    start_ticks = all_ticks()

    def busy():
        grown = {thread: ticks - start_ticks.get(thread, 0) for thread, ticks in all_ticks().items()}
        most = sorted(grown, key=grown.get, reverse=True)
        return grown[most[0]] > max(seconds * os.sysconf("SC_CLK_TCK"), 4 * grown[most[1]]) and most[0]

    pid, thread = wait_for(busy, 60, "a thread that runs the bad model")
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.tgkill(pid, thread, signal.SIGSEGV) == 0, ctypes.get_errno()
    return pid


def wait_quarantined(cluster, model):
    version = wait_for(lambda: (v := cluster.get(f"/api/v1/models/{model}/versions/1").json()).get("quarantined") and v, 30,
                       "the version being quarantined")
    assert f"signal {int(signal.SIGSEGV)}" in version["quarantined"]["reason"], version


@pytest.mark.skipif(SANITIZER is not None, reason="a sanitizer takes the signal")
def test_a_model_that_crashes_its_process_is_quarantined_and_takes_nobody_with_it(start):
    cluster = start("--inferencers", "2")
    assert upload(cluster, "good", GOOD).status_code == 201
    assert upload(cluster, "bad", save(Endless())).status_code == 201
    for name in ("good", "bad"):
        wait_for(lambda n=name: cluster.predict(n, [[0.0] * WIDTH]).status_code == 200, 30, name)
    before = {service["pid"] for service in cluster.services("inferencer")}
    assert len(before) == 2
    load = Load(cluster)
    try:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            asked = pool.submit(cluster.predict, "bad", [[1.0] * WIDTH])
            pid = crash_the_busy_thread(before, seconds=1)
            answer = asked.result(60)
        assert answer.status_code == 500 and "crashed" in answer.text, (answer.status_code, answer.text)

        wait_quarantined(cluster, "bad")

        # The process comes back, and neither that one nor the other runs the file again.
        wait_for(lambda: len(now := {s["pid"] for s in cluster.services("inferencer")} - {0}) == 2 and pid not in now, 60,
                 "the inferencer being restarted")
        cluster.wait_ready()
        after = {service["pid"] for service in cluster.services("inferencer")}
        assert before - {pid} < after, (before, pid, after)
        for value in (0.0, 1.0) * 5:
            answer = cluster.predict("bad", [[value] * WIDTH])
            assert answer.status_code == 400 and "quarantined" in answer.text, (answer.status_code, answer.text)
        answered = load.answered
        wait_for(lambda: load.answered > answered + 20, 30, "the good model's answers")
    finally:
        load.stop()
    assert load.failures == [], (len(load.failures), load.answered, load.failures[:3])
    assert {service["pid"] for service in cluster.services("inferencer")} == after, cluster.logs()[-3000:]
    assert "quarantined" not in cluster.get("/api/v1/models/good/versions/1").json()

    doctor = subprocess.run([BIN / "slipway", "--server", cluster.url, "doctor"], capture_output=True, text=True, timeout=60)
    rows = [line for line in doctor.stdout.splitlines() if line.split()[:2] == ["bad", "1"]]
    assert doctor.returncode == 1 and len(rows) == 1 and f"signal {int(signal.SIGSEGV)}" in rows[0], doctor


@pytest.mark.skipif(SANITIZER is not None, reason="a sanitizer takes the signal")
def test_a_model_that_crashes_while_it_is_loaded_is_quarantined_at_once(start):
    cluster = start("--trainers=0")
    assert upload(cluster, "bad", save(Slow(16, 80_000))).status_code == 201, "a process of its own has inspected it"
    pid = crash_the_busy_thread({cluster.service("inferencer")["pid"]}, seconds=0.2)
    wait_quarantined(cluster, "bad")
    cluster.wait_restarted("inferencer", pid)
    cluster.wait_ready()
    answer = cluster.predict("bad", [[0.0] * WIDTH])
    assert answer.status_code == 400 and "quarantined" in answer.text, (answer.status_code, answer.text)
