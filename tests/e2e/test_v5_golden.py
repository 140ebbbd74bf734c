"""Small replicas that the real Litestream v0.5.15 (LZ4 frames) and v0.5.16 (LZ4 blocks) wrote under load,
kept here with what Litestream itself restores of them: every level, snapshots, and what its retention
leaves. Needs no Litestream. tests/tools/make_litestream_v5.py made them."""
import collections
import json
import os
import random
import shutil
import sys
import threading
import types

import pytest

from conftest import KEY_ID, ROOT, SECRET, integrity, sha

sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "tools")]
import ltx_check  # noqa: E402
import s3server  # noqa: E402

VERSIONS = ("v0.5.15", "v0.5.16")


class Golden:
    """a copy of the replica, as a directory or in a bucket"""

    def __init__(self, world, version):
        self.source = ROOT / "tests" / "vectors" / f"litestream-{version}"
        self.facts = json.loads((self.source / "golden.json").read_text())
        self.objects = {}  # name as in a directory: (content, mtime in ns)
        for name, ms in self.facts["mtime_ms"].items():
            self.objects[name] = ((self.source / name).read_bytes(), ms * 1000000)
        assert len(self.objects) > 50 and {n.split("/")[1] for n in self.objects} == set("01239")
        self.world = world

    def restore(self, *args, out="out.db", check=True, **env):
        path = self.world.path / out
        for side in ("", "-wal", "-shm"):
            (self.world.path / f"{out}{side}").unlink(missing_ok=True)
        r = self.world.ctl("restore", "--url", self.url, "-o", path, "--json", *args, check=check, **env)
        return path, json.loads(r.stdout)


class Directory(Golden):
    def __init__(self, world, version, where="replica"):
        super().__init__(world, version)
        self.root = world.path / where
        self.url = f"file://{self.root}"
        for name in self.objects:
            self.put(name)

    def put(self, name, data=None):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        good, ns = self.objects[name]
        path.write_bytes(good if data is None else data)
        os.utime(path, ns=(ns, ns))

    def delete(self, name):
        (self.root / name).unlink()

    def close(self):
        pass


class Bucket(Golden):
    """the S3 server of the tests, in this process: objects are changed under its hands"""

    def __init__(self, world, version):
        super().__init__(world, version)
        args = types.SimpleNamespace(dir=str(world.path / "s3"), host="127.0.0.1", port=0, bucket=["bucket"],
                                     key_pair=[f"{KEY_ID}:{SECRET}"], region="us-east-1", cert=None,
                                     key=None, ledger=None)
        self.server = s3server.Server(args)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"s3://bucket/app?endpoint=http://127.0.0.1:{self.server.server_address[1]}"
        world.env.update(AWS_ACCESS_KEY_ID=KEY_ID, AWS_SECRET_ACCESS_KEY=SECRET)
        for name in self.objects:
            self.put(name)

    def key(self, name):
        _, level, file = name.split("/")
        return f"app/{int(level):04x}/{file}"

    def put(self, name, data=None):
        self.server.objects.put("bucket", self.key(name), self.objects[name][0] if data is None else data, {}, False)

    def delete(self, name):
        self.server.objects.delete("bucket", self.key(name))

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(params=VERSIONS)
def golden(world, request):
    g = Directory(world, request.param)
    yield g
    g.close()


def txids(name):
    base = name.split("/")[2]
    return int(base[:16], 16), int(base[17:33], 16)


def test_latest_and_every_txid(golden):
    """where Litestream refuses so does walsupctl: no file ends there that anything leads to"""
    out, d = golden.restore("--integrity-check", "full")
    assert sha(out) == golden.facts["latest"]["sha256"]
    assert int(d["txid"], 16) == golden.facts["latest"]["txid"] and d["format"] == "ltx"
    integrity(out)
    done = 0
    for txid, want in golden.facts["txid"].items():
        out, d = golden.restore("--txid", txid, check=False)
        if want is None:
            assert d["error"]["code"] == "corrupt" and not out.exists(), d
            continue
        assert sha(out) == want, txid
        done += 1
    print(f"{done} of {len(golden.facts['txid'])} TXIDs are what Litestream restores")
    assert done > 30


def test_every_time(golden):
    """Litestream restores what is older than a time, to the file's; walsup knows the same moments"""
    done = 0
    for text, want in golden.facts["time"].items():
        out, d = golden.restore("--timestamp", text, check=False)
        if want is None:  # older than Litestream's snapshots: here another level may reach
            assert "error" in d or golden.facts["txid"][d["txid"]] == sha(out)
            continue
        assert sha(out) == want, (text, d)
        done += 1
    print(f"{done} of {len(golden.facts['time'])} times are what Litestream restores")
    assert done > 30


@pytest.mark.parametrize("where", (Directory, Bucket))
def test_it_is_proven(world, where):
    for version in VERSIONS:
        g = where(world, version) if where is Bucket else where(world, version, version)
        d = json.loads(world.ctl("verify", "--url", g.url, "--json").stdout)["replicas"][0]
        assert d["proven"] and d["latest_restores"] and d["counts"]["FOUND"] == len(g.objects), d
        assert int(d["newest"], 16) == g.facts["latest"]["txid"] and not d["objects"] and not d["lost"]
        g.close()
        shutil.rmtree(world.path / "s3", ignore_errors=True)


# ---- every object, changed in every way ----

def mutations(g, rnd):
    """(kind, name, content or None) for each object in turn"""
    names = sorted(g.objects)
    for name in names:
        good = g.objects[name][0]
        yield "deleted", name, None
        yield "cut", name, good[:rnd.randrange(len(good))]
        i = rnd.randrange(len(good))
        yield "one bit flipped", name, good[:i] + bytes([good[i] ^ 1 << rnd.randrange(8)]) + good[i + 1:]
        yield "swapped", name, g.objects[rnd.choice([n for n in names if n != name])][0]


def harmless(good, data):
    """other compressed bytes for the same pages"""
    try:
        a, b = ltx_check.decode_auto(good), ltx_check.decode_auto(data)
    except ltx_check.LTXError:
        return False
    return b["file_checksum_ok"] and a["pages"] == b["pages"] and a["header"] == b["header"]


def one_mutation(g, kind, name, data, tally):
    world, (low, high) = g.world, txids(name)
    if data is None:
        g.delete(name)
    else:
        g.put(name, data)
    d = json.loads(world.ctl("verify", "--url", g.url, "--json", check=False).stdout)["replicas"][0]
    base, level = name.split("/")[2], int(name.split("/")[1])
    named = [o for o in d["objects"] if (o["name"] or "").endswith(base) and o["level"] == level or
             not o["name"] and o["level"] == level and
             int(o["min"], 16) <= low and int(o["max"], 16) >= high]
    t = tally[kind]
    t["mutations"] += 1
    if named:
        t["named"] += 1
    elif d["status"]:
        t["known by others"] += 1
    elif data is not None and harmless(g.objects[name][0], data):
        t["harmless"] += 1
    else:
        t["silent"] += 1
        assert kind == "deleted", (kind, name, d)
    # the latest, and what the object is for: right, or refused
    for args in ((), ("--txid", f"{high:016x}")):
        out, r = g.restore(*args, check=False)
        t["restores"] += 1
        if "error" in r:
            t["refused"] += 1
            assert args or d["status"] == 2, (kind, name, r, d)
            continue
        want = g.facts["txid"][r["txid"]]
        assert want is None or sha(out) == want, (kind, name, r)
        t["wrong"] += want is not None and sha(out) != want
    g.put(name)


@pytest.mark.parametrize("where", (Directory, Bucket))
@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_changed(world, version, where):
    """What is deleted without a trace: the first and the last of a level, where others hold the same, and the
    newest object, without which the replica is an older one."""
    g = where(world, version)
    tally = collections.defaultdict(collections.Counter)
    rnd = random.Random(7)
    every = int(os.environ.get("WALSUP_TEST_MUTATE_EVERY", "5"))
    for i, (kind, name, data) in enumerate(mutations(g, rnd)):
        if i % every == 0:  # 5 and 4 kinds have no divisor in common: each kind meets every fifth object
            one_mutation(g, kind, name, data, tally)
    total = sum(tally.values(), collections.Counter())
    for kind, t in tally.items():
        print(f"{version} {where.__name__}: {kind}: {dict(t)}")
    print(f"{version} {where.__name__}: {total['mutations']} mutations, restore wrong {total['wrong']}, "
          f"named {total['named']} of {total['mutations']}")
    assert len(tally) == 4 and total["mutations"] > 50 and not total["wrong"]
    assert tally["deleted"]["silent"] < tally["deleted"]["mutations"] / 2
    g.close()
