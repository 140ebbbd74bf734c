#!/usr/bin/env python3
"""coverage.py OUT FLOOR - how many lines of daemon/, ctl/ and common/ the unit programs have run, by gcov.

OUT is the tree of a build with --coverage whose unit programs have been run. FLOOR has a line for each folder, its name
and the percentage that it may not fall below; a folder without one is a failure, so is one that has no lines. COVERAGE_FILES=1
prints each file as well.
"""
import collections
import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOPS = ("common", "ctl", "daemon")
MAIN = ("ctl/main.c", "daemon/core/main.c")  # in no unit program


def lines_of(notes):
    """{source: {line: how often}} of one object; a line of several functions counts as run if one of them ran it"""
    with tempfile.TemporaryDirectory() as empty:  # gcov would leave files in the current directory
        r = subprocess.run(["gcov", "--json-format", "--stdout", str(notes)], cwd=empty, capture_output=True, text=True)
    if r.returncode != 0:
        sys.exit(f"coverage: gcov {notes}: {r.stderr.strip()}")
    found = collections.defaultdict(dict)
    for text in r.stdout.splitlines():
        for f in json.loads(text)["files"]:
            of = found[os.path.normpath(f["file"])]
            for line in f["lines"]:
                n = line["line_number"]
                of[n] = max(of.get(n, 0), line["count"])
    return found


def main():
    out, floor_file = (ROOT / a for a in sys.argv[1:])
    floor = dict(line.split() for line in floor_file.read_text().splitlines() if line and not line.startswith("#"))
    notes = sorted(p for top in TOPS for p in (out / top).rglob("*.gcno"))
    if not notes:
        sys.exit(f"coverage: nothing in {out} was built with --coverage")
    files = {}
    for p in notes:
        source = str(p.relative_to(out).with_suffix(".c"))
        if source in MAIN:
            continue
        counts = lines_of(p)[source]
        files[source] = (len(counts), sum(n > 0 for n in counts.values()))
    folders = collections.defaultdict(lambda: [0, 0, 0, 0])
    for source, (total, ran) in files.items():
        f = folders[os.path.dirname(source)]
        for i, n in enumerate((1, ran == 0, total, ran)):
            f[i] += n
    if os.environ.get("COVERAGE_FILES"):
        for source, (total, ran) in sorted(files.items()):
            print(f"{100 * ran / max(total, 1):5.1f} %  {source} ({total} lines)")
    print(f"{'folder':14}{'files':>7}{'not run':>9}{'lines':>8}{'run':>8}{'floor':>9}")
    failed = []
    for name, (n, idle, total, ran) in sorted(folders.items()):
        share = 100 * ran / max(total, 1)
        print(f"{name:14}{n:7}{idle:9}{total:8}{share:7.1f}%{floor.get(name, '-'):>8}%")
        if name not in floor:
            failed.append(f"{name} has no line in {sys.argv[2]}")
        elif share < float(floor[name]):
            failed.append(f"{name}: {share:.1f} % of its lines were run, and {floor[name]} % is the floor")
    failed += [f"{name} has a floor and no files" for name in floor if name not in folders]
    for why in failed:
        print(f"coverage: {why}")
    if failed:
        return 1
    print(f"coverage: {len(files)} files")
    return 0


if __name__ == "__main__":
    sys.exit(main())
