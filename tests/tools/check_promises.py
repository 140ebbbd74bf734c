#!/usr/bin/env python3
"""check_promises.py [PROMISES] - each row of docs/PROMISES.md names a proof, and the proofs exist.

A proof is `test_x.py` in tests/e2e; `test_x`, a function of the file named before it in the row, or
of any; `make x`, a target; `tests/...`, a file.
"""
import pathlib
import re
import sys

TARGET = re.compile(r"^([\w $()%.-]+?)\s*:(?!=)", re.M)


def targets(root):
    """names that make knows, with those of unit programs"""
    found = set()
    for p in [root / "Makefile", *root.glob("tests/*.mk"), *root.glob("packaging/*.mk")]:
        for names in TARGET.findall(p.read_text()):
            found.update(names.split())
    return found | {f"unit-{p.stem}" for p in root.glob("tests/unit/test_*.c")}


def wrong(row, tests, makes, root):
    """what is wrong with the proofs of a row"""
    cells = [c.strip() for c in row.strip().strip("|").split("|")]
    if len(cells) != 2 or not all(cells):
        yield "has no proof"
        return
    file, proofs = None, 0
    for name in re.findall(r"`([^`]+)`", cells[1]):
        if re.fullmatch(r"test_\w+\.py", name):
            file, proofs = name, proofs + 1
            if name not in tests:
                yield f"names {name}, which is not in tests/e2e"
        elif name.startswith("test_"):
            proofs += 1
            of = tests.get(file, set()) if file else set().union(*tests.values())
            if name not in of:
                yield f"names {name}, which is not a test of {file or 'tests/e2e'}"
        elif name.startswith("make "):
            proofs += 1
            yield from (f"names make {t}, which is not a target" for t in name.split()[1:]
                        if t not in makes)
        elif name.startswith("tests/"):
            proofs += 1
            if not (root / name).exists():
                yield f"names {name}, which is not there"
    if not proofs:
        yield "has no proof"


def main():
    root = pathlib.Path(__file__).resolve().parents[2]
    path = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else root / "docs" / "PROMISES.md"
    tests = {p.name: set(re.findall(r"^def (test_\w+)", p.read_text(), re.M))
             for p in root.glob("tests/e2e/test_*.py")}
    makes, rows, bad = targets(root), 0, []
    for line in path.read_text().splitlines():
        if not line.startswith("| ") or line.startswith("| promise "):
            continue
        rows += 1
        bad += [f"{line[2:60]}... {why}" for why in wrong(line, tests, makes, root)]
    for why in bad:
        print(f"check-promises: {path.name}: {why}")
    print(f"check-promises: {rows} promises")
    return 1 if bad or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
