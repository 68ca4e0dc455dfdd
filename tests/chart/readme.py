#!/usr/bin/env python3
"""The chart's README: its head from here, its table from the comments of values.yaml."""

import pathlib
import re
import sys

CHART = pathlib.Path(__file__).resolve().parents[2] / "charts" / "slipway"
KEY = re.compile(r"^( *)([A-Za-z]\w*):(?: +(.*))?$")
HEAD = """# slipway

A Helm chart for Slipway, which trains, versions and serves deep-learning models. How to install, scale and upgrade it:
[docs/kubernetes.md](../../docs/kubernetes.md). Helm 4 or 3, Kubernetes 1.30 or later.

Made by `./dev chart --readme` from values.yaml; do not edit. Keys of `inferencer.pools.NAME` are those of `inferencer`.

| key | default | description |
|---|---|---|
"""


def split_comment(text):
    """The value and the comment behind it; a # within quotes or words is none."""
    quote = ""
    for i, char in enumerate(text):
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        elif char == "#" and (i == 0 or text[i - 1] == " "):
            return text[:i].strip(), text[i + 1:].strip()
    return text.strip(), ""


def leaves():
    """Of every leaf: its path, its default as it is written, its comment."""
    found, path, above = [], [], []
    for line in (CHART / "values.yaml").read_text().splitlines():
        if line.lstrip().startswith("#"):
            above.append(line.lstrip("# ").rstrip())
            continue
        match = KEY.match(line)
        if not match:
            above = []
            continue
        depth = len(match[1]) // 2
        value, comment = split_comment(match[3] or "")
        path = path[:depth] + [match[2]]
        if value:
            found.append((".".join(path), value, comment or " ".join(above)))
        above = []
    return found


def text():
    rows = [f"| `{key}` | `{value}` | {comment.replace('|', chr(92) + '|')} |\n" for key, value, comment in leaves()]
    return HEAD + "".join(rows)


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        (CHART / "README.md").write_text(text())
    else:
        sys.exit("usage: readme.py --write")
