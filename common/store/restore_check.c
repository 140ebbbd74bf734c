#include "common/store/restore_check.h"

#include <fcntl.h>
#include <sqlite3.h>

#include "common/base/buf.h"
#include "common/base/fsx.h"

#define HEADER_SIZE 100u
#define FINDINGS_MOST 1000 /* that SQLite tells; what is wrong with pages comes first */
#define STAND_INS_MOST 1000u

struct check {
    sqlite3 *db;
    const char *pragma;
    struct restore_note *note;
    unsigned stand_ins;
    bool schema_unread; /* some of the schema could not be read */
};

static void note(struct check *c, bool unchecked, const char *text)
{
    size_t n = strlen(c->note->text);
    c->note->unchecked = c->note->unchecked || unchecked;
    if (!strstr(c->note->text, text)) /* each once, the first ones */
        (void)snprintf(c->note->text + n, sizeof c->note->text - n, "%s%s", n ? "; " : "", text);
    (void)util_plain(c->note->text);
}

/* The file's name as an SQLite URI. Immutable: the header says WAL mode, and an ordinary open would
 * leave -wal and -shm beside the file. */
static char *uri(const char *path)
{
    struct buf b = BUF_INIT;
    buf_add_str(&b, "file:");
    for (const char *p = path; *p; p++)
        if (strchr("?#%", *p))
            buf_printf(&b, "%%%02x", (unsigned char)*p);
        else
            buf_add(&b, p, 1);
    buf_add_str(&b, "?mode=ro&immutable=1");
    char *s = util_strdup(buf_str(&b));
    buf_free(&b);
    return s;
}

/* ---- stand-ins ------------------------------------------------------------------------------ */

static int by_bytes(void *arg, int n, const void *a, int m, const void *b)
{
    (void)arg;
    int r = memcmp(a, b, (size_t)MIN(n, m));
    return r ? r : n - m;
}

static void on_collation(void *arg, sqlite3 *db, int encoding, const char *name)
{
    struct check *c = arg;
    cleanup_free char *text = util_printf("no such collation sequence: %s", name);
    (void)sqlite3_create_collation_v2(db, name, encoding, NULL, by_bytes, NULL);
    note(c, true, text);
    c->stand_ins++;
}

static void nothing(sqlite3_context *x, int argc, sqlite3_value **argv)
{
    (void)argc;
    (void)argv;
    sqlite3_result_null(x);
}

/* "unknown function: fullname()", "no such function: fullname" */
static bool stand_in_function(struct check *c, const char *msg)
{
    static const char *const before[] = {"unknown function: ", "no such function: "};
    for (size_t i = 0; i < ARRAY_LEN(before); i++) {
        const char *at = strstr(msg, before[i]);
        if (!at || c->stand_ins >= STAND_INS_MOST)
            continue;
        cleanup_free char *name = util_strdup(at + strlen(before[i]));
        name[strcspn(name, "( \n")] = '\0';
        cleanup_free char *text = util_printf("no such function: %s", name);
        note(c, true, text);
        c->stand_ins++;
        return sqlite3_create_function_v2(c->db, name, -1, SQLITE_UTF8 | SQLITE_DETERMINISTIC | SQLITE_INNOCUOUS, NULL,
                                          nothing, NULL, NULL, NULL) == SQLITE_OK;
    }
    return false;
}

/* ---- the check ------------------------------------------------------------------------------ */

/* What a finding is about. SQLite has no codes for them. */
static bool is_damage(const struct check *c, const char *text)
{
    if (strstr(text, " value in ") || !strncmp(text, "CHECK constraint failed in ", 27))
        return false;
    /* pages of tables that this SQLite knows nothing of */
    if (c->schema_unread && strstr(text, "never used") && !strstr(text, "\n"))
        return false;
    /* an order, or a value, that only the application can tell */
    return !(c->stand_ins && (strstr(text, " index ")));
}

/* A text of several lines, under a headline, counts line by line. */
static bool lines_are_damage(const struct check *c, const char *text)
{
    cleanup_free char *copy = util_strdup(text);
    char *save;
    for (char *line = strtok_r(copy, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
        if (strncmp(line, "*** in database ", 16) != 0 && is_damage(c, line))
            return true;
    return false;
}

static int damaged(const struct check *c, const char *text, struct err *e)
{
    return err_set(e, ERR_CORRUPT, "%s of the restored database: %s", c->pragma, text);
}

static int read_findings(struct check *c, sqlite3_stmt *st, struct err *e)
{
    int rc;
    while ((rc = sqlite3_step(st)) == SQLITE_ROW) {
        const char *text = (const char *)sqlite3_column_text(st, 0);
        if (text && !strcmp(text, "ok"))
            continue;
        if (!text || lines_are_damage(c, text))
            return damaged(c, text ? text : "no memory", e);
        if (!c->schema_unread && !c->stand_ins)
            note(c, false, text);
    }
    return rc == SQLITE_DONE ? 0 : damaged(c, sqlite3_errmsg(c->db), e);
}

/* 1: once more, something was put in its place */
static int try(struct check *c, const char *sql, bool proven, struct err *e)
{
    sqlite3_stmt *st = NULL;
    int rc = sqlite3_prepare_v2(c->db, sql, -1, &st, NULL);
    if (rc == SQLITE_OK) {
        int r = read_findings(c, st, e);
        (void)sqlite3_finalize(st);
        return r;
    }
    const char *msg = sqlite3_errmsg(c->db);
    if (stand_in_function(c, msg))
        return 1;
    if (proven && !c->schema_unread && !strncmp(msg, "malformed database schema", 25)) {
        c->schema_unread = true;
        note(c, true, msg);
        (void)sqlite3_exec(c->db, "PRAGMA writable_schema = on", NULL, NULL, NULL); /* what can be read, is */
        return 1;
    }
    if (proven && !strcmp(msg, "unsupported file format")) {
        note(c, true, msg);
        return 0;
    }
    return damaged(c, msg, e);
}

/* Pages that an extension encrypts reserve room for its own data; the beginning of page 1 may be left as it is, for
 * SQLite's sake, but not what follows it. */
static bool is_encrypted(const char *path)
{
    uint8_t p[HEADER_SIZE];
    cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fsx_pread_all(fd, p, sizeof p, 0, NULL) < 0)
        return false;
    return p[20] >= 16 && (be32_get(p + 44) > 4 || be32_get(p + 56) > 3);
}

int check_sqlite(const char *path, bool full, bool proven, struct restore_note *ret, struct err *e)
{
    struct check c = {.pragma = full ? "PRAGMA integrity_check" : "PRAGMA quick_check", .note = ret};
    cleanup_free char *name = uri(path), *sql = util_printf("%s(%d)", c.pragma, FINDINGS_MOST);
    *ret = (struct restore_note){.unchecked = false};
    if (proven && is_encrypted(path)) {
        note(&c, true, "its pages are encrypted");
        return 0;
    }
    int r = 1, rc = sqlite3_open_v2(name, &c.db, SQLITE_OPEN_READONLY | SQLITE_OPEN_URI, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_collation_needed(c.db, &c, on_collation);
    if (rc != SQLITE_OK)
        r = damaged(&c, sqlite3_errmsg(c.db), e);
    while (r > 0)
        r = try(&c, sql, proven, e);
    (void)sqlite3_close(c.db);
    return r;
}
