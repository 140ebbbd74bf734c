"""Databases found by patterns: they come, they go, they are called something."""
import os
import pathlib
import shutil
import sqlite3
import subprocess
import time

import pytest

from conftest import image, integrity, make_db, section


def tree(world, pattern="**/*.db", target="local", **more):
    """a world whose databases are found below world.path/t"""
    base = world.path / "t"
    base.mkdir(exist_ok=True)
    world.configure(world.file_target(), world.db("t", base / pattern, target, **more))
    return base


def names(world):
    return sorted(d["name"] for d in world.status()["databases"])


def states(world):
    return {d["name"]: d["state"] for d in world.status()["databases"]}


def replicating(world, *want):
    world.poll(f"{want} replicating",
               lambda: states(world) == {n: "replicating" for n in want})


def same_restored(world, name, path):
    out = world.restore(name, "local", world.path / "restored.db")
    assert image(out) == image(path)
    integrity(out)


def test_found_at_start_in_every_depth(world):
    t = tree(world)
    (t / "a/b").mkdir(parents=True)
    (t / ".hidden").mkdir()
    (t / ".x.db-litestream").mkdir()
    for p in ["one.db", "a/two.db", "a/b/three.db", ".hidden/no.db", "a/no.txt"]:
        make_db(t / p).close()
    (t / "a/notes.db").write_text("not a database")
    world.start()
    assert names(world) == ["t/a/b/three.db", "t/a/two.db", "t/one.db"]
    world.sync()
    for n in names(world):
        same_restored(world, n, t / n[2:])
    assert sorted(os.listdir(world.state / "db")) == ["t%2Fa%2Fb%2Fthree.db", "t%2Fa%2Ftwo.db",
                                                      "t%2Fone.db"]
    assert "notes.db" not in world.log.read_text()
    assert world.stop() == 0
