#!/usr/bin/env python3
"""make_golden.py OUT - what tests/lib/golden.py describes, made by the walsupd of $WALSUP_OUT.

  OUT/tree          the files
  OUT/golden.json   what git does not keep of them, and what is in each database and point
  OUT/answers.json  the shape of what walsupctl --json and the control socket say of it

Later versions continue from these: made once for each release whose state looks different, and
never again.
"""

import json
import pathlib
import shutil
import sqlite3
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / d) for d in ("lib", "e2e", "tools")]
import golden  # noqa: E402
from golden import BASE, GoldenWorld  # noqa: E402


def make(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    con = sqlite3.connect(path)
    con.execute(f"pragma page_size={golden.PAGE_SIZE}")
    con.execute("pragma journal_mode=wal")
    con.execute("create table t(a integer primary key, b blob)")
    con.execute("insert into t(b) values(randomblob(3000))")
    con.commit()
    con.close()


def level(n):
    return list((BASE / "replica" / "shop" / "ltx" / str(n)).glob("*.ltx"))


def first_life(w):
    """everything but the fence"""
    w.configure(**{"level1-interval": "300ms", "level2-interval": "900ms"})
    w.start()
    w.sync()

    def merged():
        w.commit("shop")
        w.sync("shop")
        return len(level(2)) >= 2 and len(level(1)) >= 4

    w.poll("levels 1 and 2", merged)
    w.ctl("snapshot", "shop")
    w.commit("shop", 3)
    w.commit("tenants/a.db", 2)
    w.sync()
    w.ctl("pause", "still", "--reason", "moving house")
    w.commit("still", 2)
    assert w.stop() == 0


def fence(w):
    """another machine that was copied from this one writes to the replica of lost"""
    w.configure()
    w.start()
    w.commit("lost")
    assert w.stop() == 0
    with GoldenWorld(pathlib.Path(f"{BASE}-twin")) as twin:
        shutil.rmtree(twin.path, ignore_errors=True)
        for part in ("dbs", "state"):
            shutil.copytree(BASE / part, twin.path / part)
        twin.configure("lost")
        twin.start()
        twin.commit("lost", 2)
        twin.sync("lost")
        assert twin.stop() == 0
    w.start()
    w.commit("lost", 3)
    w.ctl("sync", "lost", "--wait", check=False)
    w.poll("lost is fenced", lambda: w.status("lost")["replicas"][0]["state"] == "fenced")
    w.sync("shop")
    assert w.stop() == 0
    shutil.rmtree(twin.path)


def points(w):
    """each TXID of shop that can be restored, and what is in it"""
    found = {}
    listed = json.loads(w.ctl("points", "shop", "--limit", "1000", "--json").stdout)["points"]
    for p in listed:
        out = w.restore("shop", "disk", BASE / "out.db", "--txid", p["txid"])
        found[p["txid"]] = golden.contents(out)
    return found


def main():
    out = pathlib.Path(sys.argv[1])
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    with golden.here(), GoldenWorld() as w:
        for name in golden.DATABASES:
            make(w.path_of(name))
        first_life(w)
        fence(w)
        w.commit("shop")  # nobody was there
        facts = {
            "version": (ROOT / "packaging" / "VERSION").read_text().strip(),
            "points": points(w),
            "contents": {n: golden.contents(w.path_of(n)) for n in golden.DATABASES},
        }
        facts["files"] = golden.pack(BASE, out / "tree")
        (out / "golden.json").write_text(json.dumps(facts, indent=1) + "\n")
    with golden.here(), GoldenWorld() as w:
        golden.unpack(out)
        w.configure()
        w.start()
        w.sync("shop")
        (out / "answers.json").write_text(
            json.dumps(golden.answers(w), indent=1, sort_keys=True) + "\n"
        )
        w.stop()
    print(f"{out}: {len(facts['files'])} files, {len(facts['points'])} points")


if __name__ == "__main__":
    main()
