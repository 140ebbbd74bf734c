"""SQLite's own tests of its WAL, its locks and its files, without and with walsupd on the directory.

An application cannot tell that walsup is there: a test that passes without it and fails with it is listed in the file
`expected`, with the reason, or it fails this gate. An entry of the list that did not differ is only told: much of this
is a matter of timing.

  suite.py DIRECTORY [--only GLOB] [--fresh]     DIRECTORY: of get.sh

WALSUP_OUT   where walsupd and walsupctl are
JOBS         scripts at the same time (1)
SUITE_LIMIT  seconds for one script (900)
Results are kept in DIRECTORY/results and used again: those without walsup for ever, those with it as long as walsupd is
the same file. --fresh runs all.
"""
import argparse
import concurrent.futures
import fnmatch
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
OUT = pathlib.Path(os.environ.get("WALSUP_OUT", HERE.parents[1] / "build" / "release")).resolve()
LIMIT = float(os.environ.get("SUITE_LIMIT", "900"))
JOBS = int(os.environ.get("JOBS", "1"))
WORDS = ("wal", "lock", "shared", "busy", "exclusive", "backup", "journal", "pager", "vacuum")
SHOWN = 8  # of the tests of a script that differ
EARLY, LATE, DIED = "(ended early)", "(took too long)", "(walsupd died)"


def scripts(test_dir, only):
    names = {p.stem for w in WORDS for p in test_dir.glob(f"*{w}*.test")}
    return sorted(n for n in names if fnmatch.fnmatch(n, only))


def expected():
    """script, test, reason; the first two may be patterns"""
    ret = []
    for line in (HERE / "expected").read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            script, test, reason = line.split(None, 2)
            ret.append((script, test.replace("_", " ") if test.startswith("(") else test, reason))
    return ret


def run_one(fixture, test_dir, name, where):
    """what failed, and how many tests there were"""
    where.mkdir(exist_ok=True)
    start = time.monotonic()
    with open(where / "output", "wb") as out:
        p = subprocess.Popen([fixture, test_dir / f"{name}.test"], cwd=where, stdout=out, stderr=out,
                             stdin=subprocess.DEVNULL, start_new_session=True)
        try:
            p.wait(LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(p.pid, signal.SIGKILL)
            p.wait()
    text = (where / "output").read_text(errors="replace")
    failed = {m[1] for m in re.finditer(r"^! (\S+) expected:", text, re.M)}
    failed |= {m[1].rstrip(".") for m in re.finditer(r"^(\S+?)\.\.\.\nError:", text, re.M)}
    m = re.search(r"^(\d+) errors out of (\d+) tests", text, re.M)
    tests = int(m[2]) if m else len(re.findall(r"\.\.\. ?Ok", text))
    if p.returncode == -signal.SIGKILL:
        failed.add(LATE)
    elif not m:
        failed.add(EARLY)
    got = dict(re.findall(r"^! (\S+) (?:expected: .*\n! \S+ )?got:\s+(.*)$", text, re.M))
    got |= {k.rstrip("."): v for k, v in re.findall(r"^(\S+?)\.\.\.\nError: (.*)$", text, re.M)}
    m_end = re.search(r"^\S*testfixture: (.*)$", text, re.M)
    got[EARLY] = m_end[1] if m_end else text[-150:]
    shutil.rmtree(where / "testdir", ignore_errors=True)
    return {"failed": sorted(failed), "tests": tests, "seconds": round(time.monotonic() - start, 1),
            "got": {k: v[:200] for k, v in got.items() if k in failed}}


class Walsup:
    def __init__(self, root):
        self.root, self.ini, self.log = root, root / "walsup.ini", root / "log"
        self.ini.write_text(f"[walsup]\nstate-dir = {root}/state\nsocket = {root}/socket\nlandlock = off\n"
                            f"[target t]\ntype = file\npath = {root}/replica\n"
                            f"[db suite]\npath = {root}/work/*/testdir/*.db*\ntarget = t\n")
        self.start()

    def start(self):
        env = dict(os.environ, WALSUP_TEST_LOCK_FILE=str(self.root / "lock"))
        self.p = subprocess.Popen([OUT / "walsupd", "-c", self.ini], env=env, stdout=open(self.log, "ab"),
                                  stderr=subprocess.STDOUT)
        end = time.monotonic() + 20
        while self.ctl("list").returncode:
            if time.monotonic() > end or self.p.poll() is not None:
                sys.exit("sqlite-suite: walsupd does not start: " + self.log.read_text()[-500:])
            time.sleep(0.05)

    def ctl(self, *args):
        return subprocess.run([OUT / "walsupctl", "-c", self.ini, *args], capture_output=True, text=True)

    def died(self):
        """whether it did; another one takes its place"""
        if self.p.poll() is None:
            return False
        self.start()
        return True

    def end(self):
        """whether it came to an orderly end"""
        self.p.terminate()
        try:
            return self.p.wait(60) == 0
        except subprocess.TimeoutExpired:
            self.p.kill()
            return False


def run_all(names, d, kind, root, keep, fresh):
    """resumable: a result is written when its script ends"""
    results = d / "results" / kind
    if fresh:
        shutil.rmtree(results, ignore_errors=True)
    results.mkdir(parents=True, exist_ok=True)
    todo = [n for n in names if not (results / n).exists() or json.loads((results / n).read_text()).get("of") != keep]
    (root / "work").mkdir()
    for n in todo:
        (root / "work" / n / "testdir").mkdir(parents=True)
    w = Walsup(root) if kind == "with" and todo else None
    with concurrent.futures.ThreadPoolExecutor(JOBS) as pool:
        def go(n):
            r = run_one(d / "testfixture", d / "source" / "test", n, root / "work" / n)
            if w and w.died():
                r["failed"].append(DIED)
            r["of"] = keep
            (results / n).write_text(json.dumps(r))
            return n, r
        for n, r in pool.map(go, todo):
            if r["failed"]:
                print(f"  {kind}: {n}: {len(r['failed'])} of {r['tests']} failed, {r['seconds']} s", flush=True)
    if w:
        replicas = len(list((root / "replica").rglob("*.ltx")))
        print(f"sqlite-suite: walsupd put {replicas} files into its target", flush=True)
        if not w.end() or (not replicas and len(todo) > 20):  # a few of the short ones are over before it looks
            (d / "walsupd.log").write_bytes(w.log.read_bytes())
            sys.exit(f"sqlite-suite: walsupd did not end in order, or had nothing to do: {d}/walsupd.log")
    return {n: json.loads((results / n).read_text()) for n in names}


def main():
    a = argparse.ArgumentParser()
    a.add_argument("directory", type=pathlib.Path)
    a.add_argument("--only", default="*")
    a.add_argument("--fresh", action="store_true")
    a = a.parse_args()
    d = a.directory.resolve()
    names = scripts(d / "source" / "test", a.only)
    start = time.monotonic()
    both = {}
    for kind, keep in (("without", "-"), ("with", hashlib.sha256((OUT / "walsupd").read_bytes()).hexdigest())):
        with tempfile.TemporaryDirectory(prefix="walsup-suite-") as root:
            both[kind] = run_all(names, d, kind, pathlib.Path(root), keep, a.fresh)
    listed, used, new, differ = expected(), set(), 0, set()
    for n in names:
        before, after = both["without"][n], both["with"][n]
        unlisted, here = [], []
        for test in sorted(set(after["failed"]) - set(before["failed"])):
            differ.add(n)
            why = next((e for e in listed if fnmatch.fnmatch(n, e[0]) and fnmatch.fnmatch(test, e[1])), None)
            used.add(why)
            (here if why else unlisted).append(why or test)
        for e in dict.fromkeys(here):
            print(f"known: {n}: {e[1]} ({here.count(e)} tests): {e[2]}")
        for test in unlisted[:SHOWN]:
            print(f"NEW: {n}: {test}: {after['got'].get(test, '')}")
        if len(unlisted) > SHOWN:
            print(f"NEW: {n}: {len(unlisted) - SHOWN} more")
        new += len(unlisted)
    for e in listed:
        if e not in used and a.only == "*":
            print(f"listed, but not seen this time: {e[0]}: {e[1]}")
    tests = {k: sum(r["tests"] for r in both[k].values()) for k in both}
    print(f"sqlite-suite: {len(names)} scripts, {tests['without']} tests without walsup, {tests['with']} with it; "
          f"{len(differ)} scripts differ ({' '.join(sorted(differ)) or 'none'}), {new} tests in a new way, "
          f"{time.monotonic() - start:.0f} s (of scripts: {sum(r['seconds'] for r in both['without'].values()):.0f} s and "
          f"{sum(r['seconds'] for r in both['with'].values()):.0f} s)")
    print(f"{sum(n not in differ for n in names)} passed, {len(differ) if new else 0} failed")
    sys.exit(1 if new or not all(tests.values()) or not names else 0)


main()
