/* db_harness.h - a real database in a directory of its own, the application's connection to it, other
 * processes that look at it, and a shadow image put together from LTX files. */
#ifndef DB_HARNESS_H
#define DB_HARNESS_H

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>
#include "tests/unit/within.h"

#include "common/base/fsx.h"
#include "common/format/ltx.h"
#include "daemon/capture/session.h"

struct tdb {
    char dir[64];
    char *path;
    sqlite3 *app;
    uint32_t page_size;
};

/* ---- the application -------------------------------------------------------------------------- */

static void ex(sqlite3 *d, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void ex(sqlite3 *d, const char *fmt, ...)
{
    char sql[2000];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(sql, sizeof sql, fmt, ap);
    va_end(ap);
    char *msg = NULL;
    if (sqlite3_exec(d, sql, NULL, NULL, &msg) != SQLITE_OK)
        fail_msg("%s: %s", sql, msg);
}

static sqlite3 *app_open(const char *path)
{
    sqlite3 *d;
    assert_int_equal(sqlite3_open(path, &d), SQLITE_OK);
    ex(d, "pragma wal_autocheckpoint=0; pragma secure_delete=0; pragma synchronous=off");
    return d;
}

static inline void tdb_dir(struct tdb *t)
{
    struct err e = {0};
    if (session_setup(&e) < 0) /* again does no harm */
        fail_msg("%s", e.msg);
    *t = (struct tdb){.dir = "/tmp/walsup-unitXXXXXX"};
    assert_non_null(mkdtemp(t->dir));
    t->path = util_printf("%s/a.db", t->dir);
}

static inline void tdb_new(struct tdb *t, uint32_t page_size)
{
    tdb_dir(t);
    t->page_size = page_size;
    t->app = app_open(t->path);
    ex(t->app, "pragma page_size=%u; pragma journal_mode=wal; create table t(a integer primary key, b)",
       page_size);
}

/* Leave the WAL as it is: no checkpoint, no removal. */
static inline void app_close_quietly(struct tdb *t)
{
    int one = 1;
    assert_int_equal(sqlite3_db_config(t->app, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_file_control(t->app, "main", SQLITE_FCNTL_PERSIST_WAL, &one), SQLITE_OK);
    assert_int_equal(sqlite3_close(t->app), SQLITE_OK);
    t->app = NULL;
}

static inline void tdb_done(struct tdb *t)
{
    (void)sqlite3_close(t->app);
    cleanup_free char *cmd = util_printf("rm -rf '%s'", t->dir);
    assert_int_equal(system(cmd), 0);
    free(t->path);
}

static inline bool exists(const char *path, const char *suffix)
{
    cleanup_free char *p = util_printf("%s%s", path, suffix);
    return access(p, F_OK) == 0;
}

/* ---- other processes -------------------------------------------------------------------------- */

/* The test program itself, started anew: what a fork would inherit of SQLite's state is useless. Modes:
 * "sql" prints the first row and dies, "close" closes the database, "locks" the bytes 0..7 of -shm that somebody else has locked (w or r). */
static inline int child_main(char **argv)
{
    if (!strcmp(argv[1], "sql") || !strcmp(argv[1], "close")) {
        sqlite3 *d;
        sqlite3_stmt *st;
        if (sqlite3_open(argv[2], &d) || sqlite3_prepare_v2(d, argv[3], -1, &st, NULL))
            return 9;
        int rc = sqlite3_step(st);
        for (int i = 0; rc == SQLITE_ROW && i < sqlite3_column_count(st); i++)
            (void)printf("%s%s", i ? "," : "", (const char *)sqlite3_column_text(st, i));
        if (rc != SQLITE_ROW && rc != SQLITE_DONE)
            (void)printf("rc %d", rc);
        (void)fflush(stdout);
        (void)sqlite3_finalize(st);
        if (!strcmp(argv[1], "close"))
            (void)sqlite3_close(d);
        _exit(0); /* like an application that dies: nothing is closed, and no leak checker complains */
    }
    cleanup_free char *shm = util_printf("%s-shm", argv[2]);
    int fd = open(shm, O_RDWR);
    for (int i = 0; i < 8; i++) {
        struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 120 + i, .l_len = 1};
        if (fd < 0 || fcntl(fd, F_GETLK, &l) < 0)
            return 9;
        (void)putchar(l.l_type == F_UNLCK ? '-' : l.l_type == F_RDLCK ? 'r' : 'w');
    }
    return 0;
}

static inline const char *child(const char *mode, const char *path, const char *sql)
{
    static char out[200];
    char self[300] = "";
    assert_true(readlink("/proc/self/exe", self, sizeof self - 1) > 0);
    cleanup_free char *cmd = util_printf("'%s' %s '%s' \"%s\"", self, mode, path, sql);
    FILE *f = popen(cmd, "r");
    assert_non_null(f);
    size_t n = fread(out, 1, sizeof out - 1, f);
    out[n] = '\0';
    assert_int_equal(pclose(f), 0);
    return out;
}

/* ---- the shadow ------------------------------------------------------------------------------- */

struct shadow {
    uint32_t page_size, pages;
    uint8_t **page; /* by number; NULL: never written */
    uint64_t txid;
    uint32_t in_file; /* pages of the last file applied */
};

static inline void shadow_cut(struct shadow *sh, uint32_t pages)
{
    for (uint32_t p = pages + 1; p <= sh->pages; p++)
        free(sh->page[p]);
    sh->page = util_realloc(sh->page, ((size_t)pages + 1) * sizeof *sh->page);
    for (uint32_t p = sh->pages + 1; p <= pages; p++)
        sh->page[p] = NULL;
    sh->pages = pages;
}

static inline void shadow_done(struct shadow *sh)
{
    shadow_cut(sh, 0);
    free(sh->page);
    *sh = (struct shadow){.page = NULL};
}

static inline struct ltx_header shadow_apply(struct shadow *sh, const char *path)
{
    cleanup_buf struct buf b = BUF_INIT;
    struct err e = {0};
    struct ltx_decoder d;
    if (fsx_read(path, SIZE_MAX, &b, &e) < 0 || ltx_decoder_open(&d, b.p, b.len, &e) < 0)
        fail_msg("%s", e.msg);
    if (!sh->page)
        sh->page = util_zalloc(sizeof *sh->page);
    if (d.h.min_txid == 1)
        shadow_cut(sh, 0);
    else if (d.h.min_txid != sh->txid + 1)
        fail_msg("%s follows TXID %llu", path, (unsigned long long)sh->txid);
    sh->page_size = d.h.page_size;
    shadow_cut(sh, d.h.commit);
    uint8_t *page = malloc(65536);
    uint32_t pgno;
    int r;
    sh->in_file = 0;
    while ((r = ltx_decoder_next(&d, &pgno, page, &e)) == 0) {
        assert_within(pgno, 1, d.h.commit);
        if (!sh->page[pgno])
            sh->page[pgno] = util_alloc(sh->page_size);
        memcpy(sh->page[pgno], page, sh->page_size);
        sh->in_file++;
    }
    free(page);
    if (r < 0)
        fail_msg("%s: %s", path, e.msg);
    sh->txid = d.h.max_txid;
    return d.h;
}

static inline uint64_t shadow_checksum(const struct shadow *sh)
{
    uint64_t sum = 0;
    for (uint32_t p = 1; p <= sh->pages; p++)
        sum ^= sh->page[p] ? ltx_page_checksum(p, sh->page[p], sh->page_size) : 0;
    return sum | LTX_CHECKSUM_FLAG;
}

/* Page by page what a reader that begins now sees. */
static inline void shadow_equals(const struct shadow *sh, const char *path)
{
    sqlite3 *d;
    sqlite3_int64 bytes = 0;
    assert_int_equal(sqlite3_open(path, &d), SQLITE_OK);
    ex(d, "begin; select count(*) from sqlite_master");
    uint8_t *image = sqlite3_serialize(d, "main", &bytes, 0);
    assert_non_null(image);
    assert_int_equal(bytes, (sqlite3_int64)sh->pages * sh->page_size);
    for (uint32_t p = 1; p <= sh->pages; p++) {
        if (!sh->page[p])
            fail_msg("page %u of %u is missing", p, sh->pages);
        if (memcmp(sh->page[p], image + (size_t)(p - 1) * sh->page_size, sh->page_size) != 0)
            fail_msg("page %u of %u differs", p, sh->pages);
    }
    sqlite3_free(image);
    int one = 1; /* this reader changes nothing by leaving */
    (void)sqlite3_db_config(d, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, one, NULL);
    (void)sqlite3_file_control(d, "main", SQLITE_FCNTL_PERSIST_WAL, &one);
    ex(d, "rollback");
    assert_int_equal(sqlite3_close(d), SQLITE_OK);
}

#endif
