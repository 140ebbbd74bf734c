"""walsupctl import-litestream: what it prints loads, and means the same."""
import json
import pathlib

import pytest

# the keys of Litestream's configuration reference, v0.3.13 and v0.5, written down independently
TOP = """access-key-id addr dbs exec heartbeat-interval heartbeat-url l0-retention
l0-retention-check-interval levels logging mcp-addr retention secret-access-key shutdown-sync-interval
shutdown-sync-timeout snapshot socket validation verify-compaction""".split()
DB = """busy-timeout checkpoint-interval dir max-checkpoint-page-count max-sync-wal-bytes meta-dir meta-path
min-checkpoint-page-count monitor-interval path pattern recursive replica replicas
restore-if-db-not-exists snapshot truncate-page-n watch""".split()
REPLICA = """access-key-id account-key account-name auto-recover bucket client-cert client-key concurrency
concurrent-writes creds endpoint force-path-style host host-key jwt key-path max-reconnects
max-sync-ltx-files name nkey part-size password path reconnect-wait region require-content-md5 retention
retention-check-interval root-cas sas-token secret-access-key seed sign-payload skip-verify
snapshot-interval sse-kms-key-id storage-class sync-interval timeout tls token type url user username
validation-interval webdav-password webdav-url webdav-username""".split()


class Import:
    def __init__(self, world):
        self.world = world

    def __call__(self, text, *args, check=True, **env):
        if not isinstance(text, str):
            text = json.dumps(text)
        yml = self.world.path / "litestream.yml"
        yml.write_text(text)
        r = self.world.ctl("import-litestream", *args, yml, check=check, **env)
        self.stderr, self.stdout = r.stderr, r.stdout
        if r.returncode == 0:
            self.world.ini.write_text(r.stdout)
            self.world.ini.chmod(0o600)
            self.conf = json.loads(self.world.ctl("config", "--json").stdout)
        return r

    def db(self, name):
        return next(d for d in self.conf["databases"] if d["name"] == name)

    def places(self, name):
        """where each replica of a database is"""
        targets = {t["name"]: t for t in self.conf["targets"]}
        out = []
        for r in self.db(name)["replicas"]:
            t = targets[r["target"]]
            path = "/".join(p for p in (t["path"], r["path"]) if p)
            out.append((t.get("endpoint"), t.get("bucket"), path))
        return out


@pytest.fixture
def imp(world):
    return Import(world)


def test_several_replicas_of_v03(imp):
    imp("""
access-key-id: ${KEY}
secret-access-key: $SECRET
dbs:
  - path: /srv/app/app.db
    monitor-interval: 1s
    min-checkpoint-page-count: 500
    replicas:
      - url: s3://mybkt/backups/app
        retention: 72h
        sync-interval: 1m30s
      - type: s3
        name: homelab
        bucket: litestream
        path: deep/er/path
        endpoint: http://s3.example.com:9000
        region: eu-1
        force-path-style: true
        skip-verify: true
      - path: /backup/app
      - /backup/second
  - path: /srv/two/app.db
    replicas:
      - url: s3://litestream/deep/er/two?endpoint=http%3A%2F%2Fs3.example.com:9000&region=eu-1&forcePathStyle=true&skipVerify=true
""", KEY="AK", SECRET="s/+=")
    assert imp.places("app") == [
        ("https://s3.us-east-1.amazonaws.com", "mybkt", "backups/app"),
        ("http://s3.example.com:9000", "litestream", "deep/er/path"),
        (None, None, "/backup/app"), (None, None, "/backup/second")]
    assert imp.places("app-2") == [("http://s3.example.com:9000", "litestream", "deep/er/two")]
    # one target for both
    assert [t["name"] for t in imp.conf["targets"]] == ["mybkt", "homelab", "local", "local-2"]
    homelab = imp.conf["targets"][1]
    assert (homelab["access-key-id"], homelab["secret-access-key-set"], homelab["skip-verify"],
            homelab["addressing"], homelab["region"]) == ("AK", True, True, "path", "eu-1")
    assert imp.db("app")["checkpoint-pages"] == 500
    assert [r["sync-interval-ms"] for r in imp.db("app")["replicas"]] == [90000, 1000, 1000, 1000]
    assert "s/+=" in imp.stdout and "retention = 259200s" in imp.stdout.split("[db app]")[1].split("[replica")[0]
    assert not imp.stderr


def test_levels_snapshots_and_retention(imp):
    imp("""
snapshot: {interval: 12h, retention: 72h}
levels: [{interval: 10s}, {interval: 2m}, {interval: 2h}, {interval: 24h}]
l0-retention: 10m
dbs:
  - path: /srv/a.db
    replica: {url: file:///backup/a}
  - path: /srv/b.db
    snapshot: {interval: 1h, retention: 48h}
    replica: {url: file:///backup/b}
""")
    hour = 3600000
    top = imp.stdout.split("[target")[0]
    for line in ("snapshot-interval = 43200s", "retention = 259200s", "level1-interval = 10s",
                 "level2-interval = 120s", "level3-interval = 7200s", "l0-retention = 600s",
                 "levels: walsup has three"):
        assert line in top, top
    of_b = imp.stdout.split("[db b]")[1]
    assert "snapshot-interval = 3600s" in of_b and f"retention = {48 * hour // 1000}s" in of_b


def test_one_replica_of_v05_and_defaults_at_the_top(imp):
    imp("""
logging: {level: warn, type: json}
shutdown-sync-timeout: 45s
sync-interval: 2s
bucket: litestream
type: s3
endpoint: minio:9000
x: &common {region: eu-1, storage-class: STANDARD_IA}
dbs:
  - path: sqlite:///srv/app.db
    replica: {<<: *common, path: app}
  - path: /srv/b.db
    replica: {<<: *common, path: other/b, region: eu-2, sync-interval: 0s}
""")
    assert imp.conf["log-level"] == "warning" and imp.conf["shutdown-timeout-ms"] == 45000
    assert imp.places("app") == [("https://minio:9000", "litestream", "app")]
    assert imp.places("b") == [("https://minio:9000", "litestream", "other/b")]
    assert imp.db("app")["path"] == "/srv/app.db"
    assert [imp.db(n)["replicas"][0]["sync-interval-ms"] for n in ("app", "b")] == [2000, 10]
    assert {t["region"] for t in imp.conf["targets"]} == {"eu-1", "eu-2"}
    assert "line 8: x: no key of Litestream's" in imp.stdout


@pytest.mark.parametrize("url,place", [
    ("s3://bkt.s3.amazonaws.com/p/a", ("https://s3.us-east-1.amazonaws.com", "bkt", "p/a")),
    ("s3://bkt.s3.eu-west-1.amazonaws.com/a", ("https://s3.eu-west-1.amazonaws.com", "bkt", "a")),
    ("s3://bkt.s3.us-west-004.backblazeb2.com/a", ("https://s3.us-west-004.backblazeb2.com", "bkt", "a")),
    ("s3://bkt.nyc3.digitaloceanspaces.com/a", ("https://nyc3.digitaloceanspaces.com", "bkt", "a")),
    ("s3://bkt.s3.fr-par.scw.cloud/a", ("https://s3.fr-par.scw.cloud", "bkt", "a")),
    ("s3://bkt.s3.filebase.com/a", ("https://s3.filebase.com", "bkt", "a")),
    ("s3://bkt.localhost:9000/a", ("http://localhost:9000", "bkt", "a")),
    ("s3://bkt/a%20b//c/?endpoint=https://h", ("https://h", "bkt", "a b/c")),
    ("s3://bkt/?region=eu-1", ("https://s3.eu-1.amazonaws.com", "bkt", "db")),
    ("s3://bkt", ("https://s3.us-east-1.amazonaws.com", "bkt", "db")),
    ("file:///backup/x", (None, None, "/backup/x")),
    ("/backup/x/", (None, None, "/backup/x")),
    ("/backup", (None, None, "/backup/db")),
])
def test_urls(imp, url, place):
    imp({"dbs": [{"path": "/srv/db.db", "replica": {"url": url}}]})
    assert imp.places("db") == [place]


def test_other_stores_are_left_out_and_said(imp):
    r = imp({"dbs": [{"path": "/srv/a.db", "replicas": [{"url": "gs://bkt/x"}, {"path": "/backup/a"}]},
                     {"path": "/srv/b.db", "replica": {"type": "sftp", "host": "h", "path": "/x"}},
                     {"path": "/srv/c.db", "replica": {
                         "type": "s3", "bucket": "b", "path": "c", "sse-customer-key": "k"}}]})
    assert [d["name"] for d in imp.conf["databases"]] == ["a"]
    assert imp.places("a") == [(None, None, "/backup/a")]
    for word in ("gs", "sftp", "sse-customer-key"):
        assert f": {word}: " in r.stderr and f": {word}: " in r.stdout
    assert "; [db b]" in r.stdout and "; [db c]" in r.stdout


@pytest.mark.parametrize("where", ["replica", "replicas", "top"])
def test_age_is_refused(imp, where):
    age = {"age": {"identities": ["AGE-SECRET-KEY-1X"], "recipients": ["age1x"]}}
    replica = {"path": "/backup/a", **(age if where != "top" else {})}
    r = imp({"dbs": [{"path": "/srv/a.db", **({"replicas": [replica]} if where == "replicas" else
                                              {"replica": replica})}], **(age if where == "top" else {})},
            check=False)
    assert r.returncode == 81 and not r.stdout and "does not encrypt" in r.stderr
    assert "AGE-SECRET" not in r.stderr
    assert imp({"dbs": [{"path": "/a.db", "replica": {"path": "/backup/a", "age": {}}}]}).returncode == 0


def test_every_key_is_mapped_or_explained(imp):
    def known(where, keys):
        for key in keys:
            doc = {"dbs": [{"path": "/srv/a.db", "replica": {"type": "file", "path": "/backup/a"}}]}
            at = {"top": doc, "db": doc["dbs"][0], "replica": doc["dbs"][0]["replica"]}[where]
            at.setdefault(key, "1")
            r = imp(doc, check=False)
            assert "no key of Litestream" not in r.stdout, (where, key)
            yield key
    n = [len(list(known(w, k))) for w, k in (("top", TOP), ("db", DB), ("replica", REPLICA))]
    assert n == [len(TOP), len(DB), len(REPLICA)]
    # replica settings are defaults at the top
    assert len(list(known("top", REPLICA))) == len(REPLICA)
    imp({"dbs": [], "nosuch": 1})
    assert "nosuch: no key of Litestream's" in imp.stdout


def test_the_environment(imp):
    text = """
# $HOME/${UNSET_ONE} and $$
dbs:
  - path: /srv/${NAME}.db
    replica: {path: "/backup/$NAME-${UNSET_TWO}x"}
"""
    r = imp(text, check=False, NAME="app", UNSET_TWO="y")
    assert imp.places("app") == [(None, None, "/backup/app-yx")] and not r.stderr
    # one that is not set here may be set where walsupd runs: it is carried over, and said; not one of a comment
    (imp.world.path / "litestream.yml").write_text(text)
    r = imp.world.ctl("import-litestream", imp.world.path / "litestream.yml", NAME="app")
    assert "path = app-${UNSET_TWO}x\n" in r.stdout
    assert "$UNSET_TWO is not set here" in r.stderr and "/etc/walsup.env" in r.stderr and "UNSET_ONE" not in r.stderr
    imp.world.ini.write_text(r.stdout)
    assert json.loads(imp.world.ctl("config", "--json", UNSET_TWO="z").stdout)["databases"][0]["replicas"][0]["path"] == "app-zx"
    r = imp(text, "--no-expand-env", check=False, NAME="app")
    assert "path = /srv/$${NAME}.db\n" in r.stdout and "not set" not in r.stderr
    assert imp.db(imp.conf["databases"][0]["name"])["path"] == "/srv/${NAME}.db"


def test_directories_become_patterns(imp):
    r = imp({"dbs": [{"dir": "/srv/tenants", "pattern": "*.db", "recursive": True, "watch": True,
                      "replica": {"path": "/backup/tenants"}},
                     {"dir": "/srv/flat/", "pattern": "*.sqlite",
                      "replica": {"url": "s3://bkt/flat"}}]}, check=False)
    assert "path = /srv/tenants/**/*.db\n" in r.stdout and "path = /srv/flat/*.sqlite\n" in r.stdout
    assert "path = tenants/{path}\n" in r.stdout and "path = flat/{path}\n" in r.stdout
    assert r.returncode == 0 and imp.db("tenants")["path"] == "/srv/tenants/**/*.db"
    assert [imp.places(n)[0][2] for n in ("tenants", "flat")] == ["/backup/tenants/{path}", "flat/{path}"]


def test_what_is_no_configuration(imp):
    for text in ("a: [", "\t- x", "a: b: c", "{"):
        r = imp(text, check=False)
        assert r.returncode == 78 and "litestream.yml:" in r.stderr, text
    for text in ("", "dbs:", "[]", "1", "dbs: 5", "dbs: [1, null]", "- a", "dbs: [{replica: 1}]",
                 "dbs: [{path: /a.db, replica: [1]}]", "dbs: [{path: [x], replicas: {a: 1}}]"):
        imp(text)
        assert imp.conf["databases"] == []
    r = imp({"dbs": [{"path": "/a.db", "replica": {"path": "/b/c", "sync-interval": "soon",
                                                   "skip-verify": "perhaps"}}]})
    assert "'soon' is not a duration" in r.stderr
    # what cannot stand in an INI file is not written as something else
    r = imp({"dbs": [{"path": "/a.db", "replica": {
        "url": "s3://bkt/p", "access-key-id": "a", "secret-access-key": "x ;y\n[db evil]\npath=/e"}}]},
        check=False)
    assert "evil" not in r.stdout and "cannot stand" in r.stderr
    r = imp({"dbs": [{"path": "/a.db", "replica": {"path": "/b/../c"}}]}, check=False)
    assert r.returncode == 78
    r = imp.world.ctl("import-litestream", "/nonexistent", check=False)
    assert r.returncode == 66
    r = imp.world.ctl("import-litestream", check=False)
    assert r.returncode == 64


def test_json(imp):
    yml = pathlib.Path(imp.world.path / "l.yml")
    yml.write_text("dbs: [{path: /a.db, replica: {path: /backup/a}}]")
    d = json.loads(imp.world.ctl("import-litestream", "--json", yml).stdout)
    assert d["loads"] and d["warnings"] == "" and "[db a]\n" in d["ini"]
