#include "tests/unit/conf_harness.h"

#include "common/base/fsx.h"

static void the_example_of_the_manual(void **state)
{
    (void)state;
    struct conf *c = good("[walsup]\nstate-dir = /var/lib/w//x/ ; spool\nsync-interval = 2s\n"
                          "; comment\n# comment\n\n"
                          "[target homelab]\ntype = s3\nendpoint = S3.Example.com:443\n"
                          "bucket = litestream\npath = /backups/\naccess-key-id = k\n"
                          "secret-access-key = s;x\nbandwidth-limit = 10MiB\n"
                          "[target local]\n  type = file\n  path = /backup/walsup\n"
                          "  ltx-encoding = frame\n"
                          "[db quadtask]\npath = /srv/quadtask/q.db\ntarget = homelab, local\n"
                          "wal-limit = 1GiB\n"
                          "[db b]\npath = /srv/b.db\ntarget = local\nsync-interval = 500ms\n"
                          "[replica quadtask@local]\nsync-interval = 10s\npath = q/t\n");
    assert_string_equal(c->state_dir, "/var/lib/w/x");
    assert_string_equal(c->socket, "/run/walsup/walsup.sock");
    assert_int_equal(c->workers, 4);
    assert_int_equal(c->scan_interval_ms, 60000);
    assert_int_equal(c->n_targets, 2);
    const struct conf_target *t = conf_find_target(c, "homelab");
    assert_string_equal(t->endpoint, "https://s3.example.com");
    assert_string_equal(t->path, "backups");
    assert_string_equal(t->region, "us-east-1");
    assert_string_equal(secret_reveal(t->secret_access_key), "s;x");
    assert_int_equal(t->addressing, CONF_ADDR_PATH);
    assert_int_equal(t->max_connections, 8);
    assert_int_equal(t->bandwidth_limit_bytes, 10 << 20);
    assert_int_equal(c->target[1].type, CONF_FILE);
    assert_int_equal(c->target[1].ltx_encoding, LTX_FRAME);
    const struct conf_db *d = conf_find_db(c, "/srv/quadtask/q.db");
    assert_ptr_equal(d, conf_find_db(c, "quadtask"));
    assert_int_equal(d->wal_limit_bytes, 1 << 30);
    assert_int_equal(d->checkpoint_pages, 1000);
    assert_int_equal(d->n_replicas, 2);
    assert_string_equal(d->replica[0].path, "quadtask");
    assert_int_equal(d->replica[0].sync_interval_ms, 2000);
    assert_string_equal(d->replica[1].path, "q/t");
    assert_int_equal(d->replica[1].sync_interval_ms, 10000);
    assert_int_equal(conf_find_db(c, "b")->replica[0].sync_interval_ms, 500);
    assert_int_equal(d->origin.line, 19);
    assert_string_equal(d->origin.file, "x.ini");
    assert_null(conf_find_db(c, "c"));
    assert_null(conf_free(c));
}

static void an_empty_file_gives_the_defaults(void **state)
{
    (void)state;
    struct conf *c = good("\xef\xbb\xbf");
    assert_int_equal(c->n_dbs, 0);
    assert_string_equal(c->log_level, "info");
    assert_int_equal(c->shutdown_timeout_ms, 30000);
    assert_null(c->metrics_listen); /* nobody is told anything unasked */
    conf_free(c);
    c = good("[walsup]\r\nworkers = 2\r\n"); /* from Windows, no newline lost */
    assert_int_equal(c->workers, 2);
    conf_free(c);
}

static void the_owners_story(void **state)
{
    (void)state;
    bad(1, "[target h]\nurl = s3://s3.example.com/litestream/qt.db\n",
        "x.ini:2: the bucket was taken to be 's3.example.com'", "endpoint is not set",
        "would go to AWS", "\n    endpoint = https://s3.example.com\n",
        "\n    bucket = litestream\n", "\n    path = qt.db\n", NULL);
    bad(1, "[target h]\nurl = s3://minio.lan:9000/b\n", "endpoint = https://minio.lan:9000\n",
        "bucket = b\n", NULL);
    bad(1, "[target h]\ntype = s3\nbucket = s3.example.com\n", "x.ini:3:", "endpoint is not set",
        NULL);
    struct conf_target t;
    struct err e = {0};
    assert_int_equal(conf_parse_url("s3://s3.example.com/litestream/qt.db", &t, &e), -ERR_CONFIG);
    assert_string_equal(e.hint, "write s3://litestream/qt.db?endpoint=https://s3.example.com");
    /* the same name with an endpoint is a bucket */
    conf_free(good("[target h]\nurl = s3://s3.example.com/l?endpoint=https://gw.example.com\n"));
    conf_free(good("[target h]\nurl = s3://s3.example.com/l\nendpoint = gw.example.com\n"));
    conf_free(good("[target h]\nurl = s3://my-bucket.v1/l\n"));
}

static void endpoints(void **state)
{
    (void)state;
    struct conf *c = good("[target a]\ntype=s3\nbucket=bbb\nendpoint = s3.example.com:9000\n"
                          "[target b]\ntype=s3\nbucket=bbb\nendpoint = http://127.0.0.1:80\n"
                          "[target c]\ntype=s3\nbucket=bbb\nregion = eu-west-1\n"
                          "[target d]\ntype=s3\nbucket=bbb\nendpoint = http://[::1]:9000\n");
    assert_string_equal(c->target[0].endpoint, "https://s3.example.com:9000");
    assert_string_equal(c->target[1].endpoint, "http://127.0.0.1");
    assert_string_equal(c->target[2].endpoint, "https://s3.eu-west-1.amazonaws.com");
    assert_int_equal(c->target[2].addressing, CONF_ADDR_VIRTUAL);
    assert_string_equal(c->target[3].endpoint, "http://[::1]:9000");
    conf_free(c);
#define EP "[target a]\ntype=s3\nbucket=bbb\nendpoint = "
    bad(1, EP "https://s3.example.com/\n", "x.ini:4:", "a slash after the host",
        "write endpoint = https://s3.example.com", NULL);
    bad(1, EP "https://s3.example.com/litestream\n", "a path after the host", "'litestream'", NULL);
    bad(1, EP "ftp://s3.example.com\n", "neither https nor http", NULL);
    bad(1, EP "https://u:geheim@s3.example.com\n", "user name or password", NULL);
    bad(1, EP "https://s3.example.com:99999\n", "optional port", NULL);
    bad(1, EP "https://\n", "not a host name", NULL);
    bad(1, EP "https://bbb.s3.example.com\n", "contains the bucket's name",
        "write endpoint = https://s3.example.com", NULL);
}

static void everything_wrong_is_reported_at_once(void **state)
{
    (void)state;
    bad(6,
        "[walsup]\nwrokers = 3\nsync-interval = 5\n[database a]\nx = y\n[db a]\npath = rel.db\n"
        "target = nowhere\n[target t]\ntype = s3\n",
        "x.ini:2: unknown key 'wrokers' in [walsup] (did you mean workers?)",
        "x.ini:3: sync-interval = 5 has no unit (a number and ms, s, m, h or d",
        "x.ini:4: unknown section 'database'", "x.ini:7: path = rel.db: the path is not absolute",
        "x.ini:8: there is no target 'nowhere'", "x.ini:9: [target t] has no bucket", NULL);
}

static void keys_and_sections(void **state)
{
    (void)state;
    bad(1, "workers = 1\n", "x.ini:1: key 'workers' stands before the first section", NULL);
    bad(1, "[walsup]\nworkers = 1\nworkers = 1\n", "x.ini:3: duplicate key 'workers', first on "
        "line 2", NULL);
    bad(1, "[walsup]\n[walsup]\n", "x.ini:2: duplicate section [walsup], first at x.ini:1", NULL);
    bad(1, S3 DB "t\n" DB "t\n", "duplicate section [db a], first at x.ini:5", NULL);
    bad(1, "[walsup]\nmetrics-listen = 1\n", "x.ini:2:", "'1' is no address in digits with a port", NULL);
    bad(1, "[walsup]\ntarget = x\n", "belongs in a section [db NAME]", NULL);
    bad(1, "[walsup\n", "closing ']' is missing", NULL);
    bad(1, "[walsup] x\n", "text after the section", NULL);
    bad(1, "[db]\npath = /x\n", "[db] needs a name", NULL);
    bad(1, "[db a b]\n", "after the section's name", NULL);
    bad(1, "[walsup x]\n", "takes no name", NULL);
    bad(3, "[db .a]\n[db a/b]\n[db 12345678901234567890123456789012345678901]\n",
        "names are 1 to 40", NULL);
    bad(1, "[walsup]\nsync-interval\n", "x.ini:2: expected 'key = value'", NULL);
    bad(2, S3 "[db a]\npath = /srv/a.db\ntarget = t,\n   t\n", "comma too many",
        "does not continue on the next line", NULL);
    conf_free(good("[walsup] ; the daemon\nworkers: 3\n"));
}

/* the INI library would cut both without a word: names at 49 bytes, lines at 199 */
static void long_names_and_lines_are_not_cut(void **state)
{
    (void)state;
#define N40 "abcdefghijabcdefghijabcdefghijabcdefghij"
    struct conf *c = good("[target " N40 "]\ntype = file\npath = /b\n[db " N40 "]\npath = /a\n"
                          "target = " N40 "\n[replica " N40 "@" N40 "]\nsync-interval = 3s\n");
    assert_int_equal(c->db[0].replica[0].sync_interval_ms, 3000);
    conf_free(c);
    char text[8000];
    int n = snprintf(text, sizeof text, "[walsup]\nstate-dir = /");
    memset(text + n, 'x', 3000);
    text[n + 3000] = '\0';
    c = good(text);
    assert_int_equal(strlen(c->state_dir), 3001);
    conf_free(c);
    memset(text + n, 'x', 4500);
    memcpy(text + n + 4500, "\nworkers = 1", 13);
    bad(1, text, "x.ini:2: the line is too long (the limit is 4096 bytes)", NULL);
}

static void values(void **state)
{
    (void)state;
#define W "[walsup]\n"
    bad(1, W "workers = 0\n", "out of range (from 1 to 128)", NULL);
    bad(1, W "workers = four\n", "workers = four is not a whole number", NULL);
    bad(1, W "sync-interval = 9ms\n", "(from 10ms to 24h)", NULL);
    bad(1, W "sync-interval = 1y\n", "is not a duration", NULL);
    bad(1, W "wal-limit = 64\n", "has no unit", "64MiB", NULL);
    bad(1, W "wal-limit = 64MB\n", "is not a size", NULL);
    bad(1, W "log-level = loud\n", "one of error|warning|notice|info|debug", NULL);
    bad(1, W "state-dir = \"/x\"\n", "quotes", NULL);
    bad(1, W "state-dir = ~/x\n", "'~' is not expanded", NULL);
    bad(1, W "state-dir = /a/../x\n", "'..'", NULL);
    bad(1, W "state-dir = /x # spool\n", "' #'", NULL);
    bad(1, W "state-dir =\n", "state-dir has no value", NULL);
    bad(1, W "state-dir = ; x\n", "state-dir has no value", NULL);
    bad(1, W "state-dir = /\x01\n", "control character 1", NULL);
    bad(1, W "state-dir = /\xc3\x28\n", "not UTF-8", NULL);
    bad(1, W "socket = /123456789012345678901234567890123456789012345678901234567890123456789012345"
             "678901234567890123456789012345678\n", "socket is 109 bytes", NULL);
    bad(1, W "include = /x/*.ini\n", "include is not possible here", NULL);
    bad(1, S3 "skip-verify = maybe\n", "neither yes nor no", NULL);
    uint64_t v = 0;
    assert_true(conf_size("512B", &v) && v == 512);
    assert_true(conf_size("3 GiB", &v) && v == 3ull << 30);
    assert_true(conf_duration("2d", &v) && v == 172800000);
    assert_false(conf_size("64", &v));
    assert_false(conf_size("-1KiB", &v));
    assert_false(conf_size("99999999999TiB", &v));
    assert_false(conf_size("99999999999999999999999KiB", &v));
    assert_false(conf_duration("", &v));
    assert_false(conf_duration("1.5s", &v));
}

static void targets(void **state)
{
    (void)state;
    bad(1, "[target t]\nbucket = xyz\n", "[target t] has no type", NULL);
    bad(1, "[target t]\ntype = file\n", "[target t] has no path", NULL);
    bad(1, "[target t]\ntype = file\npath = rel\n", "x.ini:3: path = rel: the path is not absolute",
        NULL);
    bad(1, "[target t]\ntype = file\npath = /\n", "cannot hold replicas", NULL);
    bad(1, "[target t]\ntype = file\npath = /x\nbucket = b\n", "no meaning for a target of type "
        "file", NULL);
    bad(1, "[target t]\ntype = s3\nurl = file:///x\n", "x.ini:2: type and url contradict", NULL);
    bad(1, "[target t]\nurl = s3://abc/x\nbucket = abc\n", "bucket is given here and by url", NULL);
    bad(1, "[target t]\nurl = s3://abc/x?secret=1\n", "unknown parameter 'secret'", NULL);
    bad(1, "[target t]\nurl = s3://AKIA:geheim@abc/x\n", "user name or key", NULL);
    bad(1, "[target t]\nurl = https://s3.example.com/b/p\n", "this is an endpoint", NULL);
    bad(1, "[target t]\nurl = b/p\n", "not a url that walsup knows", NULL);
    bad(1, "[target t]\nurl = s3:///p\n", "bucket is missing", NULL);
    bad(1, "[target t]\nurl = s3://a%zz/p\n", "properly encoded", NULL);
    bad(1, "[target t]\ntype = s3\nbucket = abc/def\n", "write bucket = abc and path = def", NULL);
    bad(1, "[target t]\ntype = s3\nbucket = a\n", "3 to 63", NULL);
    bad(1, S3 "path = a//b\n", "empty, '.' or '..'", NULL);
    bad(1, S3 "access-key-id = x\n", "without its secret", NULL);
    bad(1, S3 "secret-access-key = x\n", "without access-key-id", NULL);
    bad(1, S3 "access-key-id = x\nsecret-access-key = x\nsecret-access-key-file = /x\n",
        "both given", NULL);
    struct conf *c = good("[target t]\nurl = s3://abc/x%20y/?endpoint=http://h:1&region=r1&"
                          "skip-verify=yes\n[target f]\nurl = file:///backup/\n");
    assert_string_equal(c->target[0].path, "x y");
    assert_string_equal(c->target[0].endpoint, "http://h:1");
    assert_string_equal(c->target[0].region, "r1");
    assert_true(c->target[0].skip_verify);
    assert_int_equal(c->target[1].type, CONF_FILE);
    assert_string_equal(c->target[1].path, "/backup");
    conf_free(c);
}

#define GLOB FILE_T "[db t]\npath = /srv/t/**/*.db\ntarget = f\n"

static void resolved(const struct conf *c, const char *text, const char *section, const char *name,
                     const char *path)
{
    struct conf_found f = {0};
    if (!conf_resolve(c, text, &f))
        fail_msg("%s is nobody's", text);
    assert_string_equal(f.db->name, section);
    assert_string_equal(f.name, name);
    assert_string_equal(f.path, path);
    conf_found_done(&f);
}

static void sections_that_stand_for_many_databases(void **state)
{
    (void)state;
    struct conf_found f = {0};
    struct conf *c = good(GLOB "[db one]\npath = /srv/t/one.db\ntarget = f\n"
                               "[db later]\npath = /srv/**\ntarget = f\nname = all/{path}/x\n"
                               "[replica later@f]\npath = r/{path}\n");
    assert_int_equal(c->n_patterns, 2);
    resolved(c, "t/x/a.db", "t", "t/x/a.db", "/srv/t/x/a.db");
    resolved(c, "/srv/t/x/a b.db", "t", "t/x/a%20b.db", "/srv/t/x/a b.db");
    resolved(c, "t/x/a%20b.db", "t", "t/x/a%20b.db", "/srv/t/x/a b.db");
    resolved(c, "/srv/t/one.db", "one", "one", "/srv/t/one.db"); /* its own section wins */
    assert_false(conf_resolve(c, "t/one.db", &f));
    assert_false(conf_resolve(c, "all/t/x/a.db/x", &f)); /* the first pattern wins */
    resolved(c, "/srv/y", "later", "all/y/x", "/srv/y");
    resolved(c, "all/u/v/x", "later", "all/u/v/x", "/srv/u/v");
    assert_false(conf_resolve(c, "t", &f)); /* stands for many */
    assert_false(conf_resolve(c, "t/x.txt", &f));
    assert_false(conf_resolve(c, "t/../x.db", &f));
    assert_false(conf_resolve(c, "/srv/t/x.db-wal", &f));
    const struct conf_db *d = conf_find_db(c, "later");
    cleanup_free char *place = conf_replica_path(d, &d->replica[0], "/srv/t/a b");
    assert_string_equal(place, "r/t/a%20b");
    assert_null(conf_find_db(c, "/srv/t/**/*.db"));
    conf_free(c);

    /* a target or the state directory inside of what a pattern covers */
    c = good("[walsup]\nstate-dir = /srv/state\n[target f]\ntype = file\npath = /srv/backup\n"
             "[db t]\npath = /srv/**\ntarget = f\n");
    assert_null(conf_of_path(c, "/srv/backup/t/a/ltx/0/x.ltx"));
    assert_null(conf_of_path(c, "/srv/state/db/x"));
    assert_non_null(conf_of_path(c, "/srv/backups"));
    conf_free(c);

    bad(1, FILE_T "[db t]\npath = /srv/[a.db\ntarget = f\n", "x.ini:5:", "'[' without ']'", NULL);
    bad(1, GLOB "name = {section}\n", "x.ini:7:", "all databases would have the same name", NULL);
    bad(1, GLOB "name = x{path}\n", "does not stand alone", NULL);
    bad(1, GLOB "[replica t@f]\npath = here\n", "x.ini:8:", "without {path}", NULL);
    bad(1, GLOB "[db u]\npath = /x/*\ntarget = f\nname = t/{path}\n", "have the same place",
        "/backup/t", NULL);
    bad(1, GLOB "[db u]\npath = /x\ntarget = f\n[replica u@f]\npath = t/x\n",
        "lie one inside the other", NULL);
    conf_free(good(GLOB "[db u]\npath = /x/*\ntarget = f\nname = {path}\n"));
}

static void ten_thousand_sections(void **state)
{
    (void)state;
    cleanup_buf struct buf b = BUF_INIT;
    buf_add_str(&b, FILE_T);
    for (int i = 0; i < 10000; i++)
        buf_printf(&b, "[db d%d]\npath = /srv/%d.db\ntarget = f\n[replica d%d@f]\npath = r/%d\n", i, i,
                   i, i);
    struct conf *c = good(buf_str(&b));
    assert_int_equal(c->n_dbs, 10000);
    assert_string_equal(conf_find_db(c, "/srv/9999.db")->name, "d9999");
    assert_string_equal(conf_find_db(c, "d5000")->replica[0].path, "r/5000");
    conf_free(c);
}

static void databases(void **state)
{
    (void)state;
    bad(2, "[db a]\n", "[db a] has no path", "[db a] has no target", NULL);
    bad(1, FILE_T DB "f\nname = x/{path}\n", "name is for patterns: this database is called a", NULL);
    bad(1, FILE_T DB "f, f\n", "target 'f' appears twice", NULL);
    bad(1, FILE_T DB "g\n", "there is no target 'g'", NULL);
    bad(1, FILE_T DB "f\n[replica b@f]\n", "there is no database 'b'", NULL);
    bad(1, FILE_T S3 DB "f\n[replica a@t]\n", "is not replicated to 't'", NULL);
    bad(1, FILE_T DB "f\n[replica a]\n", "write [replica DATABASE@TARGET]", NULL);
    bad(1, FILE_T DB "f\n[replica a@f]\npath = ../x\n", "'..'", NULL);
    bad(1, FILE_T DB "f\n[replica a@f]\npath = /\n", "it is empty", NULL);
}

static void two_databases_on_one_replica_path(void **state)
{
    (void)state;
#define TWO "[db a]\npath = /a\ntarget = f\n[db b]\npath = /b\ntarget = "
    bad(1, FILE_T TWO "f\n[replica b@f]\npath = a\n",
        "x.ini:7: the replicas b@f and a@f (x.ini:4) have the same place /backup/a", NULL);
    bad(1, FILE_T TWO "f\n[replica b@f]\npath = a/b\n", "lie one inside the other", NULL);
    /* through two target sections */
    bad(1, FILE_T "[target g]\nurl = file:///backup/\n" TWO "g\n[replica b@g]\npath = a\n",
        "have the same place", NULL);
    bad(1, S3 "[target u]\nurl = s3://litestream/?endpoint=S3.example.com:443\n"
        "[db a]\npath = /a\ntarget = t, u\n", "the replicas a@u and a@t", NULL);
    bad(1, FILE_T "[db a]\npath = /x\ntarget = f\n[db b]\npath = //x\ntarget = f\n",
        "are the same file /x", NULL);
    /* 'a' and 'a-b' and 'ab' only look alike */
    conf_free(good(FILE_T "[db a]\npath = /a\ntarget = f\n[db a-b]\npath = /a-b\ntarget = f\n"
                   "[db ab]\npath = /a/b\ntarget = f\n"));
    conf_free(good(S3 FILE_T DB "t, f\n"));
}

static void the_dump_hides_secrets_and_loads_again(void **state)
{
    (void)state;
    struct conf *c = good("[walsup]\nwal-limit = 32MiB\n" S3
                          "access-key-id = AKIA$${x}$${y}$\nsecret-access-key = geheim\n"
                          "session-token = geheim2\n" FILE_T
                          "[target u]\nurl = s3://xyz/p?endpoint=h:1\n" DB "t, f, u\n"
                          "[replica a@f]\nsync-interval = 7s\n");
    cleanup_buf struct buf out = BUF_INIT, again = BUF_INIT;
    conf_dump(c, &out);
    assert_null(strstr(buf_str(&out), "geheim"));
    assert_non_null(strstr(buf_str(&out), "secret-access-key = ********"));
    assert_non_null(strstr(buf_str(&out), "x.ini:2\n"));
    struct conf *d = good(buf_str(&out));
    assert_int_equal(d->n_targets, 3);
    assert_string_equal(d->target[0].access_key_id, "AKIA${x}${y}$");
    assert_string_equal(d->target[2].endpoint, "https://h:1");
    assert_string_equal(d->target[2].path, "p");
    assert_int_equal(d->db[0].wal_limit_bytes, 32 << 20);
    assert_int_equal(d->db[0].replica[1].sync_interval_ms, 7000);
    assert_int_equal(d->db[0].replica[0].sync_interval_ms, 1000);
    conf_dump(d, &again);
    conf_free(c);
    conf_free(d);
}

static void sample_defaults_and_manual(void **state)
{
    (void)state;
    cleanup_buf struct buf sample = BUF_INIT, defaults = BUF_INIT, man = BUF_INIT;
    conf_sample(&sample);
    conf_free(good(buf_str(&sample)));
    for (char *p = (char *)sample.p, *nl; (nl = strchr(p, '\n')); p = nl + 1)
        if (nl - p > 80)
            fail_msg("%.*s", (int)(nl - p), p);
    conf_defaults(&defaults);
    assert_non_null(strstr(buf_str(&defaults), "\nsync-interval = 1s\n"));
    conf_man(&man);
    assert_non_null(strstr(buf_str(&man), ".It Cm sync\\-interval = Ar duration\n"));
}

static void urls_for_restore(void **state)
{
    (void)state;
    struct conf_target t;
    struct err e = {0};
    assert_int_equal(conf_parse_url("s3://bbb/backups/quadtask?endpoint=https://s3.example.com",
                                    &t, &e), 0);
    assert_string_equal(t.bucket, "bbb");
    assert_string_equal(t.path, "backups/quadtask");
    assert_string_equal(t.endpoint, "https://s3.example.com");
    assert_int_equal(t.addressing, CONF_ADDR_PATH);
    conf_target_done(&t);
    assert_int_equal(conf_parse_url("file:///backup/q/", &t, &e), 0);
    assert_string_equal(t.path, "/backup/q");
    conf_target_done(&t);
    assert_int_equal(conf_parse_url("/backup/q", &t, &e), 0);
    assert_int_equal(t.type, CONF_FILE);
    conf_target_done(&t);
    static const char *const wrong[] = {"backup", "file://backup/q", "file:///a?x=y",
                                        "s3://bbb/p?endpoint=https://h/p", "s3://bbb/p#x",
                                        "s3://bbb/a/../b", "s3://bbb/p?region=a&region=b",
                                        "s3://bbb/p?addressing=side", "s3://bbb/%00", "/a/../b",
                                        "s3://bbb/p?ca-file=x", "s3://bbb/p?endpoint="};
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++)
        if (conf_parse_url(wrong[i], &t, &e) != -ERR_CONFIG || !*e.msg || !*e.hint)
            fail_msg("%s: %s (%s)", wrong[i], e.msg, e.hint);
}

/* inih frees its line as it is; what is allocated next gets that memory. */
static void a_secret_is_not_left_in_freed_memory(void **state)
{
    (void)state;
    static const char secret[] = "geheim-geheim-geheim-geheim-geheim-geheim-geheim-geheim";
    cleanup_free char *text = util_printf("[target s]\ntype = s3\nendpoint = https://h\nbucket = bbb\naccess-key-id = k\n"
                                          "secret-access-key =%60s%s\n" FILE_T, "", secret);
    struct err e = {0};
    struct conf *c = NULL;
    char *freed[64];
    unsigned seen = 0;
    int r = conf_parse("x.ini", text, strlen(text), &c, NULL, &e);
    for (size_t i = 0; i < ARRAY_LEN(freed); i++)
        freed[i] = malloc(200);
    for (size_t i = 0; i < ARRAY_LEN(freed); i++) {
        seen += freed[i] && memmem(freed[i], 200, secret + 8, 30) != NULL;
        free(freed[i]);
    }
    assert_int_equal(r, 0);
    assert_int_equal(seen, 0);
    conf_free(c);
}

static void mistakes_of_the_first_hour(void **state)
{
    (void)state;
    /* as AWS and Litestream write it */
    bad(2, S3 "aws_access_key_id = x\nSecret_Access_Key = y\n" DB "t\n", "unknown key 'aws_access_key_id' in [target t] (did you "
        "mean access-key-id?)", "unknown key 'Secret_Access_Key' in [target t] (did you mean secret-access-key?)", NULL);
    /* once, not also as missing */
    bad(1, "[target t]\ntype = s3\nendpoint = https://s3.example.com\nbucket = \"litestream\"\n" DB "t\n",
        "bucket is in quotes", NULL);
    /* what to write stands on lines of its own, and nothing after it */
    bad(1, "[target t]\nurl = s3://s3.example.com/litestream/qt.db\n" DB "t\n",
        "(https://s3.us-east-1.amazonaws.com):\n  instead of the url write\n    endpoint = https://s3.example.com\n"
        "    bucket = litestream\n    path = qt.db\n", NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mistakes_of_the_first_hour),
        cmocka_unit_test(the_example_of_the_manual),
        cmocka_unit_test(an_empty_file_gives_the_defaults),
        cmocka_unit_test(the_owners_story),
        cmocka_unit_test(endpoints),
        cmocka_unit_test(everything_wrong_is_reported_at_once),
        cmocka_unit_test(keys_and_sections),
        cmocka_unit_test(long_names_and_lines_are_not_cut),
        cmocka_unit_test(values),
        cmocka_unit_test(targets),
        cmocka_unit_test(databases),
        cmocka_unit_test(sections_that_stand_for_many_databases),
        cmocka_unit_test(ten_thousand_sections),
        cmocka_unit_test(two_databases_on_one_replica_path),
        cmocka_unit_test(the_dump_hides_secrets_and_loads_again),
        cmocka_unit_test(sample_defaults_and_manual),
        cmocka_unit_test(urls_for_restore),
        cmocka_unit_test(a_secret_is_not_left_in_freed_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
