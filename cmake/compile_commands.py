#!/usr/bin/env python3
"""compile_commands.py BUILD OUT: the compile commands of BUILD in the folder OUT, an entry for each file of a unity build too."""

import json
import pathlib
import re
import sys

build, out = map(pathlib.Path, sys.argv[1:])
entries = []
for entry in json.loads((build / "compile_commands.json").read_text()):
    file = pathlib.Path(entry["file"])
    parts = re.findall(r'^#include "(.*)"$', file.read_text(), re.M) if file.match("Unity/unity_*") else [entry["file"]]
    entries += [entry | {"file": part, "command": entry["command"].replace(entry["file"], part)} for part in parts]
out.mkdir(exist_ok=True)
(out / "compile_commands.json").write_text(json.dumps(entries, indent=1))
