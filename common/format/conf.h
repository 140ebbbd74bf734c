/* conf.h - /etc/walsup.ini as structs. Every key is one row of conf.def; the parser, the sample
 * file, `walsupctl config` and the manual's tables come from those rows. Pure but for reading
 * include files; used on start-up, on reload and by the tool. */
#ifndef WALSUP_CONF_H
#define WALSUP_CONF_H

#include "common/base/buf.h"
#include "common/base/err.h"
#include "common/base/map.h"
#include "common/base/secret.h"
#include "common/format/glob.h"
#include "common/format/ltx.h"

#define CONF_ENVIRONMENT "/etc/walsup.env" /* where the service has its environment from: EnvironmentFile= of the unit */

enum conf_target_type { CONF_S3, CONF_FILE };
enum conf_sse { CONF_SSE_OFF, CONF_SSE_AES256, CONF_SSE_KMS, CONF_SSE_C };
/* what speaks S3 there: the rows of store/s3_provider.c */
enum conf_provider {
    CONF_PROVIDER_AUTO, /* by the endpoint's host */
    CONF_PROVIDER_GENERIC,
    CONF_PROVIDER_AWS,
    CONF_PROVIDER_MINIO,
    CONF_PROVIDER_CEPH,
    CONF_PROVIDER_R2,
    CONF_PROVIDER_B2,
    CONF_PROVIDER_HETZNER,
    CONF_PROVIDER_SCALEWAY,
    CONF_PROVIDER_DIGITALOCEAN,
    CONF_PROVIDER_TIGRIS,
    CONF_PROVIDER_GCS,
    CONF_PROVIDER_SUPABASE,
};
#define CONF_SUPABASE_BASE "/storage/v1/s3" /* the one path that an endpoint may have */
enum conf_addressing { CONF_ADDR_AUTO, CONF_ADDR_PATH, CONF_ADDR_VIRTUAL };

/* where a value came from, for `walsupctl config` and error messages */
struct conf_origin {
    const char *file; /* owned by the conf; NULL for a default */
    unsigned line;
};

struct conf_target {
    char *name;
    struct conf_origin origin;
    bool by_url; /* it stands on a command line: hints cannot send anybody to its section */
    enum conf_target_type type;
    enum conf_provider provider;
    char *endpoint; /* S3: scheme://host[:port], normalised; "https://s3.<region>.amazonaws.com"
                       when unset */
    char *bucket;
    char *path; /* S3: key prefix without leading or trailing slash, may be empty; file: absolute
                   directory */
    char *region;
    enum conf_addressing addressing; /* AUTO is resolved: PATH or VIRTUAL */
    char *access_key_id, *secret_access_key_file;
    struct secret *secret_access_key, *session_token;
    char *credentials_file, *profile; /* the rest of the credential chain is store/cred */
    char *credential_process;
    bool instance_role;
    bool skip_verify;
    char *ca_file, *ca_path, *client_certificate, *client_key;
    char *storage_class;
    enum conf_sse sse;
    char *sse_kms_key_id, *sse_customer_key_file;
    uint32_t max_connections;
    uint64_t bandwidth_limit_bytes; /* a second; 0 = no limit */
    enum ltx_encoding ltx_encoding;
    bool may_delete; /* of what the retention does not need any more */
};

struct conf_replica {
    size_t target; /* index into conf.target */
    uint64_t sync_interval_ms;
    char *path; /* replica path below the target's path; normally the database's name. Of a section
                   with a pattern: a template (name.h) */
};

struct conf_db {
    char *name;
    struct conf_origin origin;
    char *path; /* absolute; maybe a pattern */
    struct glob *glob;   /* NULL: one database. Else the section stands for every database whose path
                            matches, and its settings are theirs */
    char *name_template; /* with a pattern: what they are called (name.h) */
    uint64_t checkpoint_pages;     /* WAL length that starts a checkpoint cycle */
    uint64_t wal_limit_bytes;      /* WAL size that justifies the barrier */
    uint64_t spool_limit_bytes;    /* what may wait for the replicas */
    uint64_t level_ms[3];          /* how often files are merged to levels 1, 2, 3; 0: never */
    uint64_t snapshot_ms;          /* 0: no scheduled ones */
    uint64_t retention_ms;         /* 0: for ever */
    uint64_t l0_retention_ms;      /* at most retention_ms, unless that is 0 */
    uint64_t delete_delay_ms;
    uint64_t verify_ms;            /* how often the replicas are proven; 0: never */
    struct conf_replica *replica;
    size_t n_replicas;
};

struct conf {
    char *state_dir, *socket, *log_level;
    bool log_requests, landlock;
    char *include; /* as it was written, or the default: beside the configuration; NULL: none */
    uint32_t workers;
    uint64_t scan_interval_ms;
    uint64_t idle_timeout_ms;
    uint64_t copy_wait_ms;
    uint32_t max_open; /* databases attached at once */
    uint64_t min_free_bytes; /* of state_dir's file system */
    uint64_t shutdown_timeout_ms;
    char *metrics_listen;  /* HOST:PORT; NULL: nowhere */
    char *on_state_change; /* NULL: nobody is told */
    uint64_t hook_timeout_ms;
    struct conf_target *target;
    size_t n_targets;
    struct conf_db *db;
    size_t n_dbs;
    struct conf_db **pattern; /* those of db that have one, in order */
    size_t n_patterns;
    struct map by_name, by_path; /* of db; by_path without the patterns; private */
    char **file; /* every file read, in order */
    size_t n_files;
    struct conf_raw *raw; /* what was written where, for conf_dump; private */
};

/** conf_load(path, ret, errors, e): read the file and its includes. Every problem found is appended
 * to `errors`, one line each ("file:line: what (what to do)"; a line that starts with a space
 * belongs to the one before it), and then nothing is returned but the first one's error in e:
 * ERR_CONFIG, or what reading `path` itself failed with (ERR_NOTFOUND, ERR_PERM ...). One call at
 * a time: the INI library keeps its options in globals. */
int conf_load(const char *path, struct conf **ret, struct buf *errors, struct err *e);
/** conf_load_with(path, file, text, ret, errors, e): the same as if the included `file` had that text; NULL: as if it
 * were not there. For a change that is to be judged before it is made. */
int conf_load_with(const char *path, const char *file, const char *text, struct conf **ret, struct buf *errors,
                   struct err *e);
/** conf_load_exposed(path, ret, exposed, errors, e): the same, but a file that holds a secret and
 * that everybody may read is no problem: its path is appended to `exposed`, a line each. For a
 * check that has more to say. */
int conf_load_exposed(const char *path, struct conf **ret, struct buf *exposed, struct buf *errors, struct err *e);
/** conf_parse(name, text, n, ret, errors, e): the same for bytes at hand, includes refused. */
int conf_parse(const char *name, const char *text, size_t n, struct conf **ret,
               struct buf *errors, struct err *e);
/** conf_parse_url(url, ret, ret_rest, e): a target from s3://bucket/path?endpoint=...&region=... or
 * file:///dir or a plain absolute path, for `restore --url`; the whole path is the replica's. */
int conf_parse_url(const char *url, struct conf_target *ret, struct err *e);
struct conf *conf_free(struct conf *c);
void conf_target_done(struct conf_target *t);

/* A database: one of a section of its own, or one that a pattern stands for. */
struct conf_found {
    const struct conf_db *db; /* of the conf */
    char *name, *path;
};

/** conf_find_db(c, name_or_path): the section, NULL if there is none. Names win over paths. */
const struct conf_db *conf_find_db(const struct conf *c, const char *name_or_path);
const struct conf_target *conf_find_target(const struct conf *c, const char *name);
/** conf_of_path(c, path): the section that the file at an absolute, canonical path belongs to: its own;
 * else the first whose pattern matches. NULL if there is none. */
const struct conf_db *conf_of_path(const struct conf *c, const char *path);
/** conf_aside(c, path): whether a path is, or lies in, a directory of walsup's own (a target, the
 * state directory), where patterns find nothing. */
bool conf_aside(const struct conf *c, const char *path);
/** conf_name_of(d, path), conf_replica_path(d, r, path): of the database at path, which belongs to d;
 * malloc'ed. */
char *conf_name_of(const struct conf_db *d, const char *path);
char *conf_replica_path(const struct conf_db *d, const struct conf_replica *r, const char *path);
/** conf_resolve(c, text, ret): the database with this name, else the one at this absolute path, whether
 * or not there is such a file. False if there is none. */
bool conf_resolve(const struct conf *c, const char *text, struct conf_found *ret);
void conf_found_done(struct conf_found *f);

/* One difference between two configurations. */
struct conf_change {
    char *section;   /* "db a", "walsup" */
    const char *key; /* NULL: the whole section came or went */
    char *from, *to; /* as written, secrets masked; NULL: not there, the default */
    bool restart;    /* takes effect at the next start only */
};
/** conf_diff(a, b, ret, ret_n): what is written in b and was not in a, or differently, or is no more; by sections.
 * conf_diff_free(list, n). */
void conf_diff(const struct conf *a, const struct conf *b, struct conf_change **ret, size_t *ret_n);
void conf_diff_free(struct conf_change *list, size_t n);

/** conf_dump(c, out): the effective configuration as INI, secrets masked, origin of each value as
 * a comment. conf_sample(out): the commented sample file. conf_defaults(out): every key with its
 * default. conf_man(out): the key tables as roff. */
void conf_dump(const struct conf *c, struct buf *out);
void conf_sample(struct buf *out);
void conf_defaults(struct buf *out);
void conf_man(struct buf *out);

/** conf_size(text, ret), conf_duration(text, ret_ms): "64MiB", "1s"; false when malformed or too
 * large. */
bool conf_size(const char *text, uint64_t *ret);
bool conf_duration(const char *text, uint64_t *ret_ms);

#endif
