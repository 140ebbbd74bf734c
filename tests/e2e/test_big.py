"""Large things in bounded memory: a database over 1 GiB with its lock page, a transaction of 1 GiB."""
import shutil
import sqlite3
import subprocess

import pytest

from conftest import make_db


def peak_rss(pid):
    for line in open(f"/proc/{pid}/status"):
        if line.startswith("VmHWM"):
            return int(line.split()[1]) << 10
    raise AssertionError("no VmHWM")


@pytest.mark.outside
def test_a_transaction_of_1_gib_across_the_lock_page(world):
    if shutil.disk_usage(world.path).free < 8 << 30:
        pytest.skip("less than 8 GiB free")
    db = world.path / "big.db"
    con = make_db(db)
    con.execute("pragma synchronous=off")
    con.execute("pragma cache_size=-20000")
    con.execute("pragma wal_autocheckpoint=0")
    world.configure(world.file_target(), world.db("big"))
    world.start()
    world.sync()
    con.execute("begin")
    for i in range(3):  # 1.1 GiB in one transaction; the lock page is number 262145
        con.execute("insert into t(a,b) values(?,zeroblob(390000000))", (1000 + i,))
    con.execute("insert into t(a,b) values(2000,randomblob(20000000))")
    con.commit()
    assert (world.path / "big.db-wal").stat().st_size > 1 << 30
    world.sync("--timeout", "120s", timeout=150)
    rss = peak_rss(world.proc.pid)
    st = world.status("big")
    assert st["db_bytes"] > 1 << 30 and int(st["txid"], 16) >= 2
    assert rss < 256 << 20, f"walsupd needed {rss >> 20} MiB"
    # small changes on top, so that the newest version of a page matters
    con.execute("update t set b=randomblob(100) where a<5")
    con.commit()
    world.sync("--timeout", "120s", timeout=150)
    world.stop()
    con.execute("pragma wal_checkpoint(truncate)")
    con.close()
    out = world.path / "out.db"
    world.ctl("restore", "big", "-o", out, timeout=150)
    assert subprocess.run(["cmp", db, out], capture_output=True).returncode == 0
    # and once more from nothing: the whole database in one file, lock page left out
    shutil.rmtree(world.replica)
    shutil.rmtree(world.state)
    out.unlink()
    world.start()
    world.sync("--timeout", "120s", timeout=150)
    assert peak_rss(world.proc.pid) < 256 << 20
    world.ctl("restore", "big", "-o", out, timeout=150)
    assert subprocess.run(["cmp", db, out], capture_output=True).returncode == 0
    print(f"peak of walsupd: {rss >> 20} MiB")
