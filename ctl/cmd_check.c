/* check: everything that can be found wrong before the daemon is started */
#include "ctl/ctl.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "common/base/clk.h"
#include "common/store/store.h"
#include "ctl/out.h"

#define STEP_TIMEOUT_MS 30000

enum verdict { OK, WARNING, FAILED };

struct check {
    struct ctl *c;
    uv_loop_t loop;
    unsigned failed, warned;
    json_t *steps; /* of the target or database at hand */
};

/* one line: what was tried and what came of it */
static void step(struct check *k, const char *name, enum verdict v, const char *text,
                 const char *hint)
{
    static const char *const word[] = {"ok", "warning", "FAILED"};
    static const enum out_tone tone[] = {OUT_GOOD, OUT_WARN, OUT_BAD};
    k->failed += v == FAILED;
    k->warned += v == WARNING;
    (void)json_array_append_new(
        k->steps, json_pack("{s:s, s:s, s:s%, s:s%}", "step", name, "result",
                            v == FAILED ? "failed" : word[v], "message", text, strlen(text), "hint",
                            hint, strlen(hint)));
    if (k->c->json)
        return;
    printf("  %-12s ", name);
    out_tone(stdout, tone[v]);
    (void)fputs(word[v], stdout);
    out_tone(stdout, OUT_PLAIN);
    if (v == OK) {
        printf("  ");
        out_text(stdout, text);
        (void)fputc('\n', stdout);
    } else {
        (void)fputc('\n', stdout);
        out_wrapped(stdout, 4, text);
        if (*hint) {
            cleanup_free char *line = util_printf("hint: %s", hint);
            out_wrapped(stdout, 4, line);
        }
    }
    (void)fflush(stdout);
}

static void step_err(struct check *k, const char *name, const struct err *e)
{
    step(k, name, FAILED, e->msg, e->hint);
}

/* ---- a target ------------------------------------------------------------------------------- */

struct trip {
    struct check *k;
    struct store *s;
    struct store_req req;
    uv_timer_t timer;
    bool done, seen;
    char key[48];
    char sent[64];
    struct buf got;
    uint64_t start_ms;
};

static void trip_done(struct store_req *req)
{
    ((struct trip *)req->data)->done = true;
}

static void trip_timeout(uv_timer_t *timer)
{
    struct trip *t = timer->data;
    if (!t->done)
        store_cancel(&t->req);
}

static void trip_begin(struct trip *t)
{
    t->req = (struct store_req){.done = trip_done, .data = t};
    t->done = false;
    t->start_ms = clk_mono_ms();
    (void)uv_timer_start(&t->timer, trip_timeout, STEP_TIMEOUT_MS, 0);
}

/* runs the submitted request to its end; 0 or an error, which was printed */
static int trip_end(struct trip *t, const char *name)
{
    char text[64];
    while (!t->done)
        (void)uv_run(&t->k->loop, UV_RUN_ONCE);
    (void)uv_timer_stop(&t->timer);
    if (t->req.err.code == ERR_CANCELED) {
        (void)err_set(&t->req.err, ERR_TIMEOUT, "no answer from %s within 30 s",
                      store_describe(t->s));
        (void)err_hint(&t->req.err, "is the endpoint reachable from here, or is a proxy needed?");
    }
    if (t->req.err.code != ERR_OK) {
        step_err(t->k, name, &t->req.err);
        return -1;
    }
    (void)snprintf(text, sizeof text, "%llu ms",
                   (unsigned long long)(clk_mono_ms() - t->start_ms));
    step(t->k, name, OK, text, "");
    return 0;
}

static int take_bytes(void *arg, const void *p, size_t n, struct err *e)
{
    struct trip *t = arg;
    if (t->got.len + n > sizeof t->sent)
        return err_set(e, ERR_CORRUPT, "more came back than was sent");
    buf_add(&t->got, p, n);
    return 0;
}

static int take_item(void *arg, const struct store_object *o, struct err *e)
{
    struct trip *t = arg;
    (void)e;
    t->seen = t->seen || !strcmp(o->key, t->key);
    return 0;
}

static int trip_read(struct trip *t, size_t n)
{
    struct store_info info;
    trip_begin(t);
    store_head(t->s, &t->req, t->key, &info);
    if (trip_end(t, "look up") < 0)
        return -1;
    if (info.size != n) {
        step(t->k, "look up", FAILED, "the object has another size than was stored",
             "what answers here is not a plain S3 server or directory");
        return -1;
    }
    trip_begin(t);
    store_get(t->s, &t->req, t->key, 0, UINT64_MAX, take_bytes, t, NULL);
    if (trip_end(t, "read") < 0)
        return -1;
    if (t->got.len != n || memcmp(t->got.p, t->sent, n) != 0) {
        step(t->k, "read", FAILED, "what came back is not what was stored",
             "something between here and the store changes data");
        return -1;
    }
    trip_begin(t);
    store_list(t->s, &t->req, ".walsup-check-", NULL, take_item, t);
    if (trip_end(t, "list") < 0)
        return -1;
    if (!t->seen) {
        step(t->k, "list", FAILED, "the object just stored is not in the listing",
             "restores would miss the newest files in this store");
        return -1;
    }
    return 0;
}

static void round_trip(struct trip *t)
{
    uint8_t random[8];
    char hex[17];
    util_random(random, sizeof random);
    util_hex(hex, random, sizeof random);
    (void)snprintf(t->key, sizeof t->key, ".walsup-check-%s", hex);
    size_t n = (size_t)snprintf(t->sent, sizeof t->sent, "walsup check %s\n", hex);
    struct store_body body = {.p = t->sent, .size = n};
    trip_begin(t);
    store_put(t->s, &t->req, t->key, &body, NULL, 0);
    if (trip_end(t, "write") < 0)
        return; /* nothing to read; whatever was the reason would only be said again */
    (void)trip_read(t, n);
    const char *key = t->key;
    trip_begin(t);
    store_delete(t->s, &t->req, &key, 1);
    (void)trip_end(t, "delete");
}

static void check_target(struct check *k, const struct conf_target *target)
{
    struct trip t = {.k = k};
    struct err e = {0};
    if (store_open(&k->loop, target, &t.s, &e) < 0) {
        if (!k->c->json)
            printf("\ntarget %s\n", target->name);
        step_err(k, "open", &e);
        return;
    }
    if (!k->c->json) {
        printf("\ntarget %s: ", target->name);
        out_text(stdout, store_describe(t.s));
        (void)fputc('\n', stdout);
    }
    (void)uv_timer_init(&k->loop, &t.timer);
    t.timer.data = &t;
    round_trip(&t);
    store_close(t.s, NULL, NULL);
    uv_close((uv_handle_t *)&t.timer, NULL);
    (void)uv_run(&k->loop, UV_RUN_DEFAULT);
    buf_free(&t.got);
}

/* ---- a database ----------------------------------------------------------------------------- */

static bool check_directory(struct check *k, const char *path)
{
    cleanup_free char *dir = util_strdup(path);
    struct err e;
    *strrchr(dir, '/') = '\0';
    if (access(*dir ? dir : "/", W_OK | X_OK) == 0) {
        step(k, "directory", OK, "writable", "");
        return true;
    }
    (void)err_sys(&e, errno, "%s", *dir ? dir : "/");
    if (e.code == ERR_NOTFOUND)
        (void)err_hint(&e, "is the path right, is the file system mounted?");
    else
        (void)err_hint(&e, "SQLite keeps its -wal and -shm files there, so it must be writable; "
                           "run the check as the user of the daemon or as root");
    step_err(k, "directory", &e);
    return e.code != ERR_NOTFOUND;
}

/* The header is read raw, which is right only here: closing a descriptor drops a process's locks
 * on the database, and this process has none. */
static bool read_header(struct check *k, const char *path, uint8_t h[static 100], struct stat *st)
{
    struct err e;
    if (stat(path, st) < 0 && errno == ENOENT) {
        step(k, "file", WARNING, "there is no such file yet: walsupd waits for it",
             "is the path right?");
        return false;
    }
    cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0 || fstat(fd, st) < 0) {
        (void)err_sys(&e, errno, "cannot read %s", path);
        (void)err_hint(&e, "run the check as the user of the daemon or as root");
        step_err(k, "file", &e);
        return false;
    }
    if (!S_ISREG(st->st_mode)) {
        bool dir = S_ISDIR(st->st_mode);
        step(k, "file", FAILED, dir ? "it is a directory" : "it is not a regular file",
             dir ? "name the database file in it" : "");
        return false;
    }
    if (st->st_size == 0) {
        step(k, "file", WARNING, "the file is empty: walsupd waits for the first table", "");
        return false;
    }
    ssize_t n = pread(fd, h, 100, 0);
    if (n == 100 && !memcmp(h, "SQLite format 3", 16))
        return true;
    step(k, "file", FAILED, "it is not an SQLite database",
         "is the path right? (an encrypted database cannot be replicated)");
    return false;
}

static void check_database(struct check *k, const struct conf_db *d)
{
    uint8_t h[100];
    struct stat st;
    char text[96], size[32];
    if (!k->c->json)
        printf("\ndatabase %s: %s\n", d->name, d->path);
    if (!check_directory(k, d->path) || !read_header(k, d->path, h, &st))
        return;
    uint32_t page_size = be16_get(h + 16) == 1 ? 65536 : be16_get(h + 16);
    if (page_size < 512 || (page_size & (page_size - 1))) {
        step(k, "file", FAILED, "its header is damaged: there is no such page size",
             "sqlite3 FILE 'PRAGMA integrity_check'");
        return;
    }
    (void)snprintf(text, sizeof text, "SQLite, %s, page size %u",
                   util_size(size, (uint64_t)st.st_size), page_size);
    step(k, "file", OK, text, "");
    if (h[18] == 2 && h[19] == 2) {
        step(k, "journal mode", OK, "WAL", "");
        return;
    }
    cleanup_free char *hint =
        util_printf("walsup does not change it; do: sqlite3 %s 'PRAGMA journal_mode=WAL'", d->path);
    step(k, "journal mode", FAILED, "the database is not in WAL mode, so there is nothing to "
         "replicate from", hint);
}

/* ---- a pattern ------------------------------------------------------------------------------ */

struct walk {
    const struct conf *conf;
    const struct conf_db *d;
    size_t databases, wal, unreadable;
    char *not_wal; /* one of them */
};

static void walk_file(struct walk *w, const char *path)
{
    uint8_t h[100];
    cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) {
        w->unreadable++;
        return;
    }
    if (conf_of_path(w->conf, path) != w->d || pread(fd, h, sizeof h, 0) != (ssize_t)sizeof h ||
        memcmp(h, "SQLite format 3", 16) != 0)
        return;
    w->databases++;
    if (h[18] == 2 && h[19] == 2)
        w->wal++;
    else if (!w->not_wal)
        w->not_wal = util_strdup(path);
}

/* much as the daemon does, but links are not followed */
static void walk_dir(struct walk *w, const char *dir, glob_at at)
{
    DIR *d = opendir(dir);
    if (!d) {
        w->unreadable++;
        return;
    }
    for (const struct dirent *e; (e = readdir(d));) {
        size_t n = strlen(e->d_name);
        glob_at next = glob_step(w->d->glob, at, e->d_name, n);
        if (!next || glob_aside(e->d_name, n) || !strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
            continue;
        cleanup_free char *path = util_printf("%s/%s", dir[1] ? dir : "", e->d_name);
        struct stat st;
        if (lstat(path, &st) < 0 || conf_aside(w->conf, path))
            continue;
        if (S_ISDIR(st.st_mode) && glob_below(w->d->glob, next))
            walk_dir(w, path, next);
        else if (S_ISREG(st.st_mode) && glob_file(w->d->glob, next))
            walk_file(w, path);
    }
    (void)closedir(d);
}

static void check_pattern(struct check *k, const struct conf *conf, const struct conf_db *d)
{
    struct walk w = {.conf = conf, .d = d};
    struct err e;
    char text[96];
    const char *base = glob_base(d->glob);
    if (!k->c->json)
        printf("\ndatabases %s: %s\n", d->name, d->path);
    if (access(base, R_OK | X_OK) < 0 && errno != ENOENT) {
        (void)err_sys(&e, errno, "%s", base);
        (void)err_hint(&e, "run the check as the user of the daemon or as root");
        step_err(k, "directory", &e);
        return;
    }
    if (access(base, F_OK) < 0) {
        step(k, "directory", WARNING, "there is no such directory yet: walsupd waits for it",
             "is the path right?");
        return;
    }
    walk_dir(&w, base, glob_start(d->glob));
    (void)snprintf(text, sizeof text, "%zu databases match now, %zu of them in WAL mode", w.databases,
                   w.wal);
    step(k, "files", w.databases ? OK : WARNING, text, w.databases ? "" : "is the pattern right?");
    if (w.unreadable)
        step(k, "access", WARNING, "some files or directories could not be read",
             "run the check as the user of the daemon or as root");
    if (w.not_wal) {
        cleanup_free char *hint =
            util_printf("walsup does not change it; do: sqlite3 %s 'PRAGMA journal_mode=WAL'", w.not_wal);
        step(k, "journal mode", WARNING, "some databases are not in WAL mode and not replicated", hint);
    }
    free(w.not_wal);
}

/* ---- the verb ------------------------------------------------------------------------------- */

static json_t *check_all(struct check *k, const struct conf *conf)
{
    json_t *targets = json_array(), *databases = json_array();
    for (size_t i = 0; i < conf->n_targets; i++) {
        k->steps = json_array();
        unsigned before = k->failed;
        check_target(k, &conf->target[i]);
        (void)json_array_append_new(
            targets, json_pack("{s:s, s:b, s:o}", "name", conf->target[i].name, "ok",
                               k->failed == before, "steps", k->steps));
    }
    for (size_t i = 0; i < conf->n_dbs; i++) {
        k->steps = json_array();
        unsigned before = k->failed;
        if (conf->db[i].glob)
            check_pattern(k, conf, &conf->db[i]);
        else
            check_database(k, &conf->db[i]);
        (void)json_array_append_new(
            databases, json_pack("{s:s, s:s, s:b, s:o}", "name", conf->db[i].name, "path",
                                 conf->db[i].path, "ok", k->failed == before, "steps", k->steps));
    }
    return json_pack("{s:b, s:i, s:i, s:s, s:o, s:o}", "ok", !k->failed, "failed", (int)k->failed,
                     "warnings", (int)k->warned, "configuration", k->c->config, "targets", targets,
                     "databases", databases);
}

static const char *plural(size_t n)
{
    return n == 1 ? "" : "s";
}

int cmd_check(struct ctl *c)
{
    struct check k = {.c = c};
    struct conf *conf = NULL;
    int status;
    if (ctl_option(c, NULL, &status) == CTL_STOP || !ctl_operands(c, 0, 0, &status) ||
        !ctl_load(c, &conf, &status))
        return status;
    if (!c->json)
        printf("configuration %s: ok, %zu target%s, %zu database%s\n", c->config, conf->n_targets,
               plural(conf->n_targets), conf->n_dbs, plural(conf->n_dbs));
    (void)uv_loop_init(&k.loop);
    json_t *all = check_all(&k, conf);
    (void)uv_loop_close(&k.loop);
    if (c->json) {
        (void)out_json(all);
    } else {
        json_decref(all);
        printf("\n");
        if (!conf->n_dbs && !k.failed)
            printf("no database is configured, so there is nothing to do: add a section "
                   "[db NAME]\n");
        else if (k.failed)
            printf("%u problem%s\n", k.failed, plural(k.failed));
        else if (k.warned)
            printf("no problems, %u warning%s\n", k.warned, plural(k.warned));
        else
            printf("everything is fine\n");
    }
    (void)conf_free(conf);
    return k.failed ? 1 : 0;
}
