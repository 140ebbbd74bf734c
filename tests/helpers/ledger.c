/* ledger - an application whose database can be judged from the inside, for the demonstration.
 *
 *   ledger write DB RATE [FIRST]  RATE transactions a second until SIGTERM or SIGINT, the FIRST
 *                                 ones flat out
 *   ledger count DB               number of committed entries
 *   ledger verify DB [MIN]        is this a committed state, with at least MIN entries?
 *   ledger same A B               are the pages of both the same, as a reader sees them?
 *
 * A transaction moves money between two accounts: two updates, then two ledger entries, of which only
 * the second is marked last. Every entry holds the SHA-256 of the one before it. So a state that was
 * never committed shows: accounts that do not add up to zero, balances that do not follow from the
 * entries, a gap, a broken chain, half a transaction at the end. Exit status 0: yes; 1: no. */
#include <openssl/evp.h>
#include <signal.h>
#include <sqlite3.h>
#include <time.h>

#include "common/base/clk.h"
#include "common/base/util.h"

#define ACCOUNTS 100
#define HASH 32

static volatile sig_atomic_t stop;

static void on_signal(int sig)
{
    (void)sig;
    stop = 1;
}

static _Noreturn void die(sqlite3 *d, const char *what)
{
    (void)fprintf(stderr, "ledger: %s: %s\n", what, d ? sqlite3_errmsg(d) : "failed");
    exit(1);
}

static sqlite3 *open_db(const char *path, int flags)
{
    sqlite3 *d;
    if (sqlite3_open_v2(path, &d, flags, NULL) != SQLITE_OK)
        die(d, path);
    (void)sqlite3_busy_timeout(d, 5000);
    return d;
}

static void run(sqlite3 *d, const char *sql)
{
    if (sqlite3_exec(d, sql, NULL, NULL, NULL) != SQLITE_OK)
        die(d, sql);
}

static sqlite3_stmt *prepare(sqlite3 *d, const char *sql)
{
    sqlite3_stmt *s;
    if (sqlite3_prepare_v2(d, sql, -1, &s, NULL) != SQLITE_OK)
        die(d, sql);
    return s;
}

static void finish(sqlite3 *d, sqlite3_stmt *s, const char *what)
{
    if (sqlite3_step(s) != SQLITE_DONE || sqlite3_reset(s) != SQLITE_OK)
        die(d, what);
}

static int64_t one_value(sqlite3 *d, const char *sql)
{
    sqlite3_stmt *s = prepare(d, sql);
    if (sqlite3_step(s) != SQLITE_ROW)
        die(d, sql);
    int64_t v = sqlite3_column_int64(s, 0);
    (void)sqlite3_finalize(s);
    return v;
}

static void next_hash(uint8_t hash[HASH], int64_t n, int account, int64_t amount)
{
    char text[HASH + 64];
    memcpy(text, hash, HASH);
    int len = snprintf(text + HASH, sizeof text - HASH, "%lld %d %lld", (long long)n, account,
                       (long long)amount);
    if (!EVP_Q_digest(NULL, "SHA256", NULL, text, HASH + (size_t)len, hash, NULL))
        die(NULL, "SHA-256");
}

static int cmd_write(const char *path, double rate, int64_t first)
{
    sqlite3 *d = open_db(path, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE);
    run(d, "pragma journal_mode=wal;pragma synchronous=normal;"
           "create table account(id integer primary key, balance integer not null);"
           "create table entry(n integer primary key, account integer, amount integer,"
           " last integer, hash blob)");
    sqlite3_stmt *open = prepare(d, "insert into account values(?1,0)"),
                 *move = prepare(d, "update account set balance=balance+?2 where id=?1"),
                 *add = prepare(d, "insert into entry values(?1,?2,?3,?4,?5)");
    run(d, "begin");
    for (int i = 0; i < ACCOUNTS; i++) {
        (void)sqlite3_bind_int(open, 1, i);
        finish(d, open, "open an account");
    }
    run(d, "commit");
    uint8_t hash[HASH] = {0};
    uint64_t start = clk_mono_us();
    for (int64_t t = 0; !stop; t++) {
        int64_t amount = 1 + (int64_t)util_random_below(1000);
        run(d, "begin immediate");
        for (int side = 0; side < 2; side++) {
            int account = (int)util_random_below(ACCOUNTS);
            int64_t n = 2 * t + side + 1, x = side ? -amount : amount;
            (void)sqlite3_bind_int(move, 1, account);
            (void)sqlite3_bind_int64(move, 2, x);
            finish(d, move, "move money");
            next_hash(hash, n, account, x);
            (void)sqlite3_bind_int64(add, 1, n);
            (void)sqlite3_bind_int(add, 2, account);
            (void)sqlite3_bind_int64(add, 3, x);
            (void)sqlite3_bind_int(add, 4, side);
            (void)sqlite3_bind_blob(add, 5, hash, HASH, SQLITE_TRANSIENT);
            finish(d, add, "add an entry");
        }
        run(d, "commit");
        if (t < first)
            start = clk_mono_us();
        uint64_t due = start + (uint64_t)((double)(t + 1 - first) * 1e6 / rate);
        uint64_t now = clk_mono_us();
        if (t >= first && due > now) {
            struct timespec ts = {(time_t)((due - now) / 1000000),
                                  (long)((due - now) % 1000000 * 1000)};
            (void)nanosleep(&ts, NULL);
        }
    }
    _exit(0); /* like an application that is killed: no checkpoint at the end */
}

static int no(const char *what, int64_t n)
{
    printf("NOT a committed state: %s (%lld)\n", what, (long long)n);
    return 1;
}

static int cmd_verify(const char *path, int64_t min)
{
    sqlite3 *d = open_db(path, SQLITE_OPEN_READONLY);
    run(d, "begin");
    sqlite3_stmt *s = prepare(d, "pragma integrity_check");
    if (sqlite3_step(s) != SQLITE_ROW || strcmp((const char *)sqlite3_column_text(s, 0), "ok") != 0)
        return no("integrity_check", 0);
    (void)sqlite3_finalize(s);
    uint8_t hash[HASH] = {0};
    int64_t n = 0;
    int last = 1;
    s = prepare(d, "select n,account,amount,last,hash from entry order by n");
    while (sqlite3_step(s) == SQLITE_ROW) {
        last = sqlite3_column_int(s, 3);
        if (sqlite3_column_int64(s, 0) != ++n)
            return no("an entry is missing", n);
        next_hash(hash, n, sqlite3_column_int(s, 1), sqlite3_column_int64(s, 2));
        if (sqlite3_column_bytes(s, 4) != HASH || memcmp(sqlite3_column_blob(s, 4), hash, HASH) != 0)
            return no("the chain is broken at an entry", n);
    }
    if (sqlite3_finalize(s) != SQLITE_OK)
        die(d, "read the entries");
    if (!last)
        return no("it ends in the middle of a transaction, at an entry", n);
    int64_t off = one_value(d, "select count(*) from account a where balance<>(select "
                               "coalesce(sum(amount),0) from entry e where e.account=a.id)");
    if (off)
        return no("balances that do not follow from the entries", off);
    if (one_value(d, "select count(*) from account") != ACCOUNTS ||
        one_value(d, "select sum(balance) from account"))
        return no("the accounts do not add up", 0);
    if (n < min)
        return no("a committed state, but an old one, of as many entries", n);
    printf("a committed state: %lld entries, %lld transactions, chain unbroken, accounts add up, "
           "integrity_check ok\n", (long long)n, (long long)n / 2);
    (void)sqlite3_close(d);
    return 0;
}

static uint8_t *pages(const char *path, sqlite3_int64 *ret_bytes, int64_t *ret_page)
{
    sqlite3 *d = open_db(path, SQLITE_OPEN_READONLY);
    *ret_page = one_value(d, "pragma page_size");
    uint8_t *p = sqlite3_serialize(d, "main", ret_bytes, 0);
    if (!p)
        die(d, path);
    (void)sqlite3_close(d);
    return p;
}

static int cmd_same(const char *a, const char *b)
{
    sqlite3_int64 na, nb;
    int64_t page_a, page_b, differ = 0;
    uint8_t *pa = pages(a, &na, &page_a), *pb = pages(b, &nb, &page_b);
    if (page_a != page_b || na != nb) {
        printf("different: %lld bytes in pages of %lld, %lld in pages of %lld\n", (long long)na,
               (long long)page_a, (long long)nb, (long long)page_b);
        return 1;
    }
    for (int64_t i = 0; i < na; i += page_a)
        differ += memcmp(pa + i, pb + i, (size_t)page_a) != 0;
    printf("%lld pages of %lld bytes compared, %lld differ\n", (long long)(na / page_a),
           (long long)page_a, (long long)differ);
    sqlite3_free(pa);
    sqlite3_free(pb);
    return differ || !na;
}

int main(int argc, char **argv)
{
    const char *verb = argc > 2 ? argv[1] : "";
    (void)signal(SIGTERM, on_signal);
    (void)signal(SIGINT, on_signal);
    if (!strcmp(verb, "write") && argc > 3 && atof(argv[3]) > 0)
        return cmd_write(argv[2], atof(argv[3]), argc > 4 ? atoll(argv[4]) : 0);
    if (!strcmp(verb, "verify"))
        return cmd_verify(argv[2], argc > 3 ? atoll(argv[3]) : 1);
    if (!strcmp(verb, "same") && argc == 4)
        return cmd_same(argv[2], argv[3]);
    if (!strcmp(verb, "count")) {
        printf("%lld\n", (long long)one_value(open_db(argv[2], SQLITE_OPEN_READONLY),
                                              "select count(*) from entry"));
        return 0;
    }
    (void)fprintf(stderr, "usage: ledger write DB RATE [FIRST] | count DB | verify DB [MIN] | same A B\n");
    return 64;
}
