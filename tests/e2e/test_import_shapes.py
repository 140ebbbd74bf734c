"""Configurations of Litestream's as people write them, v0.3 and v0.5: each is imported, checked, started and restored.
The servers of providers stand for themselves in the imported file; after that was looked at, a local one takes their place."""
import json
import os
import re

import pytest

from conftest import KEY_ID, SECRET, S3Fault, image, make_db
from ports import free_ports

LITESTREAM = {"LITESTREAM_ACCESS_KEY_ID": KEY_ID, "LITESTREAM_SECRET_ACCESS_KEY": SECRET}
AWS = {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET}
HOUR, DAY = 3600000, 86400000


class Shape:
    """A configuration, what is said about it, its environment, what becomes of it (first target, first database), what is
    replicated"""

    def __init__(self, text, *said, env=None, targets=None, db=None, daemon=None, databases=("app",)):
        self.text, self.said, self.env = text, said, env or {}
        self.targets, self.db, self.daemon = targets or [], db or {}, daemon or {}
        self.databases = databases


SHAPES = {
    "v0.3, a url and keys for all, from the environment": Shape("""
access-key-id: $LITESTREAM_ACCESS_KEY_ID
secret-access-key: ${LITESTREAM_SECRET_ACCESS_KEY}

dbs:
  - path: {data}/app.db
    replicas:
      - url: s3://litestream/app
""", env=LITESTREAM, targets=[{"bucket": "litestream", "access-key-id": KEY_ID}]),
    "v0.3, MinIO with everything that a replica may have": Shape("""
dbs:
  - path: {data}/app.db
    replicas:
      - type: s3
        bucket: litestream
        path: sqlite/production
        endpoint: {endpoint}
        region: us-east-1
        access-key-id: ${LITESTREAM_ACCESS_KEY_ID}
        secret-access-key: ${LITESTREAM_SECRET_ACCESS_KEY}
        force-path-style: true
        sync-interval: 5s
        snapshot-interval: 1h
        retention: 168h
        retention-check-interval: 1h
        validation-interval: 12h
""", env=LITESTREAM, targets=[{"path": "sqlite", "addressing": "path"}],
        db={"retention": 7 * DAY, "snapshot-interval": HOUR, "verify-interval": 12 * HOUR}),
    "v0.3, a retention that is shorter than a day": Shape("""
dbs:
  - path: {data}/app.db
    replicas:
      - {type: s3, bucket: litestream, path: app, retention: 2h}
""", env=AWS, db={"retention": 2 * HOUR, "snapshot-interval": 2 * HOUR}),
    "v0.3, Rails: defaults by an anchor, a path that is relative": Shape("""
replica_defaults: &replica_defaults
  type: s3
  bucket: $LITESTREAM_REPLICA_BUCKET
  endpoint: s3.pub1.example.com
  access-key-id: $LITESTREAM_ACCESS_KEY_ID
  secret-access-key: $LITESTREAM_SECRET_ACCESS_KEY
dbs:
  - path: data/app.db
    replicas:
      - <<: *replica_defaults
        path: storage/production.sqlite3
""", "path: was relative", env={**LITESTREAM, "LITESTREAM_REPLICA_BUCKET": "litestream"},
        targets=[{"endpoint": "https://s3.pub1.example.com", "bucket": "litestream", "path": "storage"}]),
    "v0.3, a bucket and a directory, each with its retention": Shape("""
dbs:
  - path: {data}/app.db
    replicas:
      - {name: offsite, url: s3://litestream/app, retention: 72h, snapshot-interval: 24h}
      - {name: local, path: {backup}/app, retention: 24h, snapshot-interval: 12h}
""", env=AWS, targets=[{"bucket": "litestream"}, {"type": "file"}],
        db={"retention": 3 * DAY, "snapshot-interval": 12 * HOUR}),
    "v0.3, a directory, metrics and a program": Shape("""
addr: ":{port}"
exec: "/usr/bin/myapp serve --port 8080"
dbs:
  - path: {data}/app.db
    checkpoint-interval: 1m
    min-checkpoint-page-count: 2000
    replicas:
      - path: {backup}/app
""", "exec: is not started", "After=walsupd.service", daemon={"metrics-listen": "[::]:{port}"},
        db={"checkpoint-pages": "2000"}),
    "v0.3, R2": Shape("""
dbs:
  - path: {data}/app.db
    replicas:
      - type: s3
        endpoint: https://0123456789abcdef.r2.cloudflarestorage.com
        bucket: litestream
        path: app
        region: auto
        access-key-id: ${R2_KEY}
        secret-access-key: ${R2_SECRET}
""", env={"R2_KEY": KEY_ID, "R2_SECRET": SECRET},
        targets=[{"endpoint": "https://0123456789abcdef.r2.cloudflarestorage.com", "region": "auto"}]),
    "v0.3, Backblaze, the bucket in the host": Shape("""
dbs:
  - path: {data}/app.db
    replicas:
      - url: s3://litestream.s3.us-west-002.backblazeb2.com/app
""", env=AWS, targets=[{"endpoint": "https://s3.us-west-002.backblazeb2.com", "region": "us-west-002",
                        "bucket": "litestream"}]),
    "v0.3, DigitalOcean, the bucket in the host": Shape("""
dbs:
  - path: {data}/app.db
    replicas:
      - url: s3://litestream.fra1.digitaloceanspaces.com/app/
        access-key-id: %s
        secret-access-key: "%s"
""" % (KEY_ID, SECRET), targets=[{"endpoint": "https://fra1.digitaloceanspaces.com", "bucket": "litestream"}]),
    "v0.3 on Fly, Tigris by the names that it sets, keys nowhere in the file": Shape("""
dbs:
  - path: {data}/app.db
    replicas:
      - type: s3
        bucket: ${BUCKET_NAME}
        path: app-db
        endpoint: ${AWS_ENDPOINT_URL_S3}
        region: ${AWS_REGION}
""", env={**AWS, "BUCKET_NAME": "litestream", "AWS_ENDPOINT_URL_S3": "https://fly.storage.tigris.dev", "AWS_REGION": "auto"},
        targets=[{"endpoint": "https://fly.storage.tigris.dev", "region": "auto", "access-key-id": KEY_ID}]),
    "v0.3, stores that walsup does not have, beside one that it has": Shape("""
dbs:
  - path: {data}/app.db
    replicas:
      - url: gs://bucket/app
      - {type: abs, account-name: acc, account-key: k, bucket: container, path: app}
      - {type: sftp, host: "example.com:22", user: u, key-path: /etc/litestream/key, path: /backup/app}
      - path: {backup}/app
""", "gs: another kind of store", "storage.googleapis.com", "abs: another kind of store", "sftp: another kind of store",
        targets=[{"type": "file"}]),
    "v0.5, NATS beside a directory": Shape("""
dbs:
  - path: {data}/nats.db
    replica: {type: nats, url: "nats://nats.example.com:4222", bucket: litestream-backups, creds: /etc/user.creds, tls: true}
  - path: {data}/app.db
    replica: {path: {backup}/app}
""", "nats: another kind of store", targets=[{"type": "file"}]),
    "v0.5, all that can stand at the top": Shape("""
addr: "127.0.0.1:{port}"
mcp-addr: ":3001"
access-key-id: ${AWS_ACCESS_KEY_ID}
secret-access-key: ${AWS_SECRET_ACCESS_KEY}
region: us-east-1
sync-interval: 2s
levels:
  - interval: 20s
  - interval: 4m
  - interval: 2h
snapshot:
  interval: 24h
  retention: 24h
validation:
  interval: 48h
l0-retention: 1h
l0-retention-check-interval: 15s
logging: {level: warn, type: json, stderr: true}
heartbeat-url: https://hc.example.com/ping/uuid
heartbeat-interval: 5m
shutdown-sync-timeout: 45s
shutdown-sync-interval: 100ms
verify-compaction: true
dbs:
  - path: {data}/app.db
    monitor-interval: 10ms
    busy-timeout: 5s
    restore-if-db-not-exists: true
    replica:
      url: s3://litestream/app-backup
""", env=AWS, daemon={"metrics-listen": "127.0.0.1:{port}", "log-level": "warning", "shutdown-timeout": 45000},
        db={"retention": DAY, "snapshot-interval": DAY, "verify-interval": 2 * DAY, "l0-retention": HOUR,
            "level1-interval": 20000}),
    "v0.5, snapshots of a database that outlive its retention": Shape("""
snapshot: {interval: 24h, retention: 720h}
dbs:
  - path: {data}/app.db
    snapshot: {interval: 24h, retention: 6h}
    replica: {path: {backup}/app}
""", db={"retention": 6 * HOUR, "snapshot-interval": 6 * HOUR}),
    "v0.5, MinIO on this machine, by parameters of the url": Shape("""
dbs:
  - path: {data}/app.db
    replica:
      url: s3://litestream/deep/app?endpoint={host}&forcePathStyle=true&region=us-east-1
""", env=LITESTREAM, targets=[{"endpoint": "{endpoint}", "path": "deep"}]),
    "v0.5, a directory of tenants, watched": Shape("""
dbs:
  - dir: {data}
    pattern: "*.db"
    recursive: true
    watch: true
    replica:
      type: s3
      bucket: litestream
      path: tenants
""", env=AWS, databases=("app.db", "acme/main.db")),
    "v0.5, a bucket that is deleted in by rules of its own": Shape("""
retention: {enabled: false}
dbs:
  - path: {data}/app.db
    replica: {url: "s3://litestream/app", sse-kms-key-id: alias/x, part-size: 10MB, concurrency: 4}
""", env=AWS, targets=[{"delete": "no"}]),
}


def effective(world, **env):
    """walsupctl config: {section: {key: value}}, durations in milliseconds"""
    out, section = {}, None
    for line in world.ctl("config", **env).stdout.splitlines():
        if line.startswith("["):
            section = out.setdefault(line.strip("[]"), {})
        elif " = " in line:
            key, value = re.sub(r"\s+; .*", "", line).split(" = ", 1)
            d = re.fullmatch(r"(\d+)(ms|s|m|h|d)", value)
            section[key] = int(d[1]) * {"ms": 1, "s": 1000, "m": 60000, "h": HOUR, "d": DAY}[d[2]] if d else value
    return out


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    s = S3Fault(tmp_path_factory.mktemp("store") / "s3")
    yield s
    s.close()


@pytest.fixture
def place(world, store):
    for d in ("data", "data/acme", "backup"):
        (world.path / d).mkdir()
    make_db(world.path / "data" / "app.db").close()
    return {"data": world.path / "data", "backup": world.path / "backup", "endpoint": store.endpoint,
            "host": store.endpoint.split("//")[1], "port": free_ports(1)}


def fill(value, place):
    if not isinstance(value, str):
        return value
    for k, v in place.items():
        value = value.replace("{%s}" % k, str(v))
    return value


def import_it(world, shape, place):
    yml = world.path / "litestream.yml"
    yml.write_text(fill(shape.text, place))
    before = os.getcwd()
    os.chdir(world.path)
    try:
        return world.ctl("import-litestream", yml, check=False, **shape.env)
    finally:
        os.chdir(before)


def here(world, ini, store):
    """the same with state and socket of this test, and the local server in the place of others"""
    ini = ini.replace("[walsup]\n", f"[walsup]\nstate-dir = {world.state}\nsocket = {world.socket}\ncopy-wait = 0s\n")
    ini = re.sub(r"^endpoint = .*\n", "", ini, flags=re.M)
    ini = re.sub(r"^(region|addressing) = .*\n", "", ini, flags=re.M)
    return ini.replace("type = s3\n", f"type = s3\nendpoint = {store.endpoint}\n")


@pytest.mark.parametrize("name", SHAPES)
def test_imported_checked_started_restored(world, store, place, name):
    shape = SHAPES[name]
    store.control("/_reset", [])
    if len(shape.databases) > 1:
        make_db(place["data"] / "acme" / "main.db").close()
    r = import_it(world, shape, place)
    assert r.returncode == 0, r.stdout + r.stderr
    for text in shape.said:
        assert text in r.stderr, r.stderr
    if not shape.said:
        assert not r.stderr
    assert "no key of Litestream" not in r.stdout or "replica_defaults" in r.stdout

    # what it means
    world.ini.write_text(r.stdout)
    world.ini.chmod(0o600)
    conf = effective(world)
    targets = [v for k, v in conf.items() if k.startswith("target ")]
    assert len(targets) >= len(shape.targets)
    for want, got in zip(shape.targets, targets, strict=False):
        assert {k: got.get(k) for k in want} == {k: fill(v, place) for k, v in want.items()}, got
    assert {k: conf["walsup"].get(k) for k in shape.daemon} == {k: fill(v, place) for k, v in shape.daemon.items()}
    section = next(k for k in conf if k.startswith("db "))
    assert {k: conf[section].get(k) for k in shape.db} == shape.db, conf[section]

    # and does, without the environment in which it was imported
    world.ini.write_text(here(world, r.stdout, store))
    c = world.ctl("check", "--unit", "none", check=False)
    assert c.returncode == 0, c.stdout + c.stderr
    world.start()
    tenants = "{path}" in r.stdout
    for d in shape.databases:
        full = f"{section.split()[1]}/{d}" if tenants else d
        world.poll(f"{full} is found", lambda full=full: full in [x["name"] for x in world.status()["databases"]])
        world.sync(full)
        for rep in world.status(full)["replicas"]:
            out = world.restore(full, rep["target"])
            assert image(out) == image(place["data"] / ("app.db" if d == "app" else d)), rep
    assert world.stop() == 0


def test_there_are_at_least_ten_of_them_of_both_versions():
    assert len(SHAPES) >= 10
    assert {n[:4] for n in SHAPES} == {"v0.3", "v0.5"}


@pytest.mark.parametrize("text", [
    "dbs:\n  - path: /srv/a.db\n    replicas:\n      - {url: 's3://b/a', age: {identities: [AGE-SECRET-KEY-1X], recipients: [age1x]}}\n",
    "age: {recipients: [age1x]}\ndbs:\n  - path: /srv/a.db\n    replica: {url: 's3://b/a'}\n"])
def test_what_is_encrypted_is_refused_as_a_whole(world, text):
    r = import_it(world, Shape(text), {})
    assert r.returncode == 81 and not r.stdout and "does not encrypt" in r.stderr and "hint: nothing was printed" in r.stderr


def test_keys_that_are_nowhere_are_missed_at_once(world):
    text = "dbs:\n  - path: /srv/a.db\n    replica: {url: 's3://litestream/a'}\n"
    r = import_it(world, Shape(text), {})
    assert r.returncode == 0 and "no keys: there are none" in r.stderr and "/etc/walsup.env" in r.stderr
    r = import_it(world, Shape(text, env=AWS), {})
    assert not r.stderr and f"access-key-id = {KEY_ID}" in r.stdout and "; from $AWS_ACCESS_KEY_ID" in r.stdout


def test_keys_that_are_set_elsewhere_are_carried_over_by_name(world):
    text = ("dbs:\n  - path: /srv/a.db\n    replica: {type: s3, bucket: '${BUCKET}', path: a, region: '$REGION',\n"
            "      access-key-id: '$LITESTREAM_ACCESS_KEY_ID', secret-access-key: '${LITESTREAM_SECRET_ACCESS_KEY}'}\n")
    r = import_it(world, Shape(text), {})
    assert r.returncode == 0
    for name in ("BUCKET", "REGION", "LITESTREAM_ACCESS_KEY_ID", "LITESTREAM_SECRET_ACCESS_KEY"):
        assert f"= ${{{name}}}\n" in r.stdout and f"${name} is not set here" in r.stderr, r.stdout + r.stderr
    assert "no keys" not in r.stderr and "[target BUCKET]" in r.stdout
    world.ini.write_text(r.stdout)
    world.ini.chmod(0o600)
    assert world.ctl("config", check=False).returncode == 78
    conf = json.loads(world.ctl("config", "--json", BUCKET="litestream", REGION="eu-1", **LITESTREAM).stdout)
    assert (conf["targets"][0]["bucket"], conf["targets"][0]["region"]) == ("litestream", "eu-1")


def test_a_secret_that_looks_like_a_variable_stays_what_it_is(world, store, place):
    secret = "a${b}$$c${HOME}$d"
    text = "dbs:\n  - path: {data}/app.db\n    replica: {url: 's3://litestream/a', access-key-id: K, secret-access-key: '${S}'}\n"
    r = import_it(world, Shape(text, env={"S": secret}), place)
    assert r.returncode == 0 and not r.stderr
    assert "secret-access-key = a$${b}$$c$${HOME}$d\n" in r.stdout


@pytest.mark.parametrize("addr, listen", [(":9090", "[::]:9090"), ("localhost:9090", "127.0.0.1:9090"),
                                          ("10.0.0.1:9090", "10.0.0.1:9090"), ("[::1]:9090", "[::1]:9090"),
                                          ("myhost:9090", None), ("9090", None)])
def test_metrics(world, addr, listen):
    r = import_it(world, Shape(f"addr: '{addr}'\ndbs: []\n"), {})
    assert r.returncode == 0
    assert (f"metrics-listen = {listen}\n" in r.stdout) if listen else ("is not an address in digits" in r.stderr and
                                                                       "\nmetrics-listen" not in r.stdout)
