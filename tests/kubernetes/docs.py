"""The commands of docs/kubernetes.md, section by section."""

import re

from kube import ROOT

SECTIONS = {}
for _section in re.split(r"^## ", (ROOT / "docs" / "kubernetes.md").read_text(), flags=re.M)[1:]:
    _title, _, _text = _section.partition("\n")
    _lines = [line for block in re.findall(r"```sh\n(.*?)```", _text, re.S) for line in block.splitlines()]
    if _lines:
        SECTIONS[_title] = _lines
LINES = [line for lines in SECTIONS.values() for line in lines]


def line(begin):
    """The one that begins so."""
    found = [one for one in LINES if one.startswith(begin)]
    assert len(found) == 1, (begin, found)
    return found[0]
