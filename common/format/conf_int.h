/* conf_int.h - what conf.c (lines to sections), conf_value.c (texts to values), conf_section.c (what a section says),
 * conf_build.c, conf_target.c and conf_places.c (sections to struct conf), conf_find.c, conf_url.c and conf_text.c
 * share. Nobody else includes this. */
#ifndef WALSUP_CONF_INT_H
#define WALSUP_CONF_INT_H

#include "common/format/conf.h"

enum conf_kind { CONF_WALSUP, CONF_TARGET, CONF_DB, CONF_REPLICA, CONF_KINDS };
enum conf_type {
    CONF_TEXT,
    CONF_PATH,
    CONF_FLAG,
    CONF_COUNT,
    CONF_SIZE,
    CONF_DURATION,
    CONF_CHOICE,
};
enum conf_flags { CONF_RELOAD = 1, CONF_SECRET = 2, CONF_S3ONLY = 4, CONF_INHERIT = 8 };

enum conf_key_id {
#define KEY(section, member, ...) CONF_##section##_##member,
#include "common/format/conf.def"
    CONF_KEYS
};

struct conf_key {
    enum conf_kind kind;
    const char *name;
    enum conf_type type;
    const char *unit;
    uint64_t min, max;
    const char *dflt, *example;
    unsigned flags;
    const char *text;
};
extern const struct conf_key conf_key[CONF_KEYS];
extern const char *const conf_kind_name[CONF_KINDS];

/* one "key = value" as it was written */
struct conf_value {
    enum conf_key_id key;
    bool bad; /* a problem was reported; only good for "is there one" */
    char *text;
    uint64_t num; /* FLAG, COUNT, SIZE, DURATION, or the index of a CHOICE */
    struct conf_origin origin;
};

struct conf_section {
    enum conf_kind kind;
    char *name; /* "" for [walsup]; "db@target" for a replica */
    struct conf_origin origin;
    struct conf_value *value;
    size_t n;
};

/* everything that was written, in order; kept with the conf for conf_dump */
struct conf_raw {
    struct conf_section **section;
    size_t n;
    struct conf_section **sorted; /* by kind and name; set by conf_build */
};

struct conf_ctx {
    struct conf *c;
    struct buf *errors;
    struct err *e;
    unsigned problems;
    struct buf *exposed; /* see conf_load_exposed(); NULL: it is a problem */
};

/** conf_problem(x, o, hint, fmt, ...): report one problem; hint is what to write instead, "" when
 * there is nothing to add. */
void conf_problem(struct conf_ctx *x, const struct conf_origin *o, const char *hint,
                  const char *fmt, ...) PRINTF_LIKE(4, 5);
/** conf_get(s, key): the value written in section s, NULL if none or s is NULL. */
const struct conf_value *conf_get(const struct conf_section *s, enum conf_key_id key);
/** conf_problem_err(x, o, e): the same, of an error with its hint. */
void conf_problem_err(struct conf_ctx *x, const struct conf_origin *o, const struct err *e);
/** conf_text_of(s, key): the text written in section s, which keeps it; NULL: none, or it was refused, or s is NULL.
 * conf_dup_of(s, key): a copy of it, or of the row's default; NULL: there is neither. conf_num_of(s, key): the number
 * written, or the default. conf_origin_of(s, key): where it was written, else where s begins. */
const char *conf_text_of(const struct conf_section *s, enum conf_key_id key);
char *conf_dup_of(const struct conf_section *s, enum conf_key_id key);
uint64_t conf_num_of(const struct conf_section *s, enum conf_key_id key);
const struct conf_origin *conf_origin_of(const struct conf_section *s, enum conf_key_id key);
/** conf_sort_sections(x): fill raw->sorted, reporting sections that are there twice. */
void conf_sort_sections(struct conf_ctx *x);
/** conf_section_find(raw, kind, name): after conf_build has sorted; NULL if there is none. */
struct conf_section *conf_section_find(const struct conf_raw *raw, enum conf_kind kind,
                                       const char *name);
/** conf_expand(text, secret, ret, e): text with ${NAME} taken from the environment (env.h), and $${ for a plain ${. 0: it
 * has neither, CONF_EXPANDED: from the environment, CONF_UNESCAPED: only plain ones; then *ret is malloc'ed. ERR_CONFIG: not
 * set, or not a name. secret: the variables are taken out of the environment (env_hide). */
enum { CONF_UNESCAPED = 1, CONF_EXPANDED };
int conf_expand(const char *text, bool secret, char **ret, struct err *e);
/** conf_number(k, text, ret, e): text as the type of row k says, within its range. */
int conf_number(const struct conf_key *k, const char *text, uint64_t *ret, struct err *e);
/** conf_limit_text(k, v, buf): v as it would be written for a row with a range. */
void conf_limit_text(const struct conf_key *k, uint64_t v, char buf[static 32]);
/** conf_default(key): the number of a row's default. */
uint64_t conf_default(enum conf_key_id key);
/** conf_build(x): fill x->c from x->c->raw, reporting everything that does not fit. */
void conf_build(struct conf_ctx *x);
/** conf_build_target(x, s): one [target] section to the next of x->c->target, which has room. */
void conf_build_target(struct conf_ctx *x, const struct conf_section *s);
/** conf_index(c): make the databases findable, once they are all there. */
void conf_index(struct conf *c);
/** conf_check_places(x): report files and replica paths that two sections claim. */
void conf_check_places(struct conf_ctx *x);
/** conf_effective(raw, replica, db, key, ret_origin): the value of an inheritable key, from the
 * first of replica, db (each may be NULL), [walsup], default. */
uint64_t conf_effective(const struct conf_raw *raw, const struct conf_section *replica,
                        const struct conf_section *db, const char *key,
                        struct conf_origin *ret_origin);

/** conf_name_ok(s, n): a name of a target or database: 1 to 40 of A-Z a-z 0-9 . _ - and no leading
 * dot. */
bool conf_name_ok(const char *s, size_t n);
bool conf_utf8_ok(const char *text, size_t n);
/** conf_path_clean(path, e): canonical form of an absolute path (no "//", "/./", trailing slash),
 * malloc'ed; NULL with e filled when it is relative or has a "..". */
char *conf_path_clean(const char *path, struct err *e);
/** conf_prefix_clean(path, e): the same for a path below something: no slash at either end, no
 * empty, "." or ".." component; "" stays "". */
char *conf_prefix_clean(const char *path, struct err *e);

/* a url taken apart, every part decoded but not judged; NULL: not given */
struct conf_url {
    enum conf_target_type type;
    char *bucket, *path;
    char *endpoint, *region, *addressing, *skip_verify, *ca_file, *profile;
};
int conf_url_split(const char *url, struct conf_url *ret, struct err *e);
void conf_url_done(struct conf_url *u);
/** conf_endpoint_clean(text, e): scheme://host[:port], malloc'ed; NULL with e filled. */
char *conf_endpoint_clean(const char *text, struct err *e);
char *conf_endpoint_aws(const char *region);
/** conf_host_is_local(host): a host[:port][/path] that is this machine. */
bool conf_host_is_local(const char *host);
/** conf_bucket_check(bucket, path, region, endpoint_set, from_url, e): the name's letters, and the
 * host-name-for-bucket confusion. */
int conf_bucket_check(const char *bucket, const char *path, const char *region, bool endpoint_set,
                      bool from_url, struct err *e);
enum conf_addressing conf_addressing_resolve(enum conf_addressing a, bool endpoint_set,
                                             const char *bucket);

#endif
