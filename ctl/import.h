/* import.h - what cmd_import.c (from litestream.yml to INI), import_replica.c (its replicas),
 * import_yaml.c (text to nodes) and import_keys.c (what becomes of each key) share. Nobody else
 * includes this. */
#ifndef WALSUP_IMPORT_H
#define WALSUP_IMPORT_H

#include <yaml.h>

#include "common/base/buf.h"
#include "common/base/err.h"
#include "ctl/ctl.h"

struct import;

/* ---- YAML ----------------------------------------------------------------------------------- */

struct import_pair {
    const char *key; /* the document's */
    const yaml_node_t *value;
    unsigned line;
};

/* An unset variable goes through YAML as its name between two characters that nobody else uses (U+E000, U+E001). */
#define IMPORT_UNSET "\xee\x80\x80"
#define IMPORT_UNSET_END "\xee\x80\x81"

/** import_variable(x, name): what Litestream would see: of the environment, else of that of its
 * unit; malloc'ed, NULL: it is not set. import_expand(x, text, out): $NAME and ${NAME} as
 * Litestream does it; of an unset one the name is kept. */
char *import_variable(struct import *x, const char *name);
void import_expand(struct import *x, const char *text, struct buf *out);
/** import_load(name, p, n, doc, e): one document; the caller deletes it. */
int import_load(const char *name, const void *p, size_t n, yaml_document_t *doc, struct err *e);
/** import_pairs(doc, map, ret): the pairs of a mapping, "<<" merged in; malloc'ed, ended by a row
 * without key. Anything else has none. */
size_t import_pairs(yaml_document_t *doc, const yaml_node_t *map, struct import_pair **ret);
/** import_text(node): a scalar as text; NULL for others and for null. */
const char *import_text(const yaml_node_t *node);
/** import_items(doc, seq), import_item(doc, seq, i): elements of a sequence. */
size_t import_items(const yaml_node_t *seq);
const yaml_node_t *import_item(yaml_document_t *doc, const yaml_node_t *seq, size_t i);
/** import_duration(text, ret_ms): Go's durations: 1m30s, 0.5h, 100ms. */
bool import_duration(const char *text, uint64_t *ret_ms);
/** import_bool(text, ret): YAML 1.1's words. */
bool import_bool(const char *text, bool *ret);

/* ---- keys ----------------------------------------------------------------------------------- */

enum import_where { IMPORT_TOP, IMPORT_DB, IMPORT_REPLICA };

enum import_act {
    IMPORT_NOTE,   /* no equivalent: a comment with the reason */
    IMPORT_READ,   /* read by cmd_import.c */
    IMPORT_REFUSE, /* nothing is printed at all */
    IMPORT_DROP,   /* this replica cannot be imported */
};

struct import_key {
    enum import_where where;
    const char *name;
    enum import_act act;
    const char *why; /* of NOTE, REFUSE and DROP */
};

/** import_key(where, name): NULL: Litestream does not know it. Keys of a replica are also known at
 * the top, as defaults. */
const struct import_key *import_key(enum import_where where, const char *name);
/** import_no_type(type): why replicas of this type, or scheme, cannot be imported; NULL: they can. */
const char *import_no_type(const char *type);

/* ---- the result ----------------------------------------------------------------------------- */

#define IMPORT_SYNC_MIN_MS 10u
#define IMPORT_DAY_MS 86400000u

/* what is known of a replica, the file's texts */
struct import_settings {
    const char *type, *name, *path, *url, *bucket, *region, *endpoint, *path_style, *skip_verify,
        *key_id, *secret, *storage_class, *sync_interval, *retention, *snapshot, *validation;
};

/* a [target], written once however many replicas lie there */
struct import_target {
    char *name;
    struct buf body;
};

/* of a database or of all; 0: not said */
struct import_history {
    uint64_t retention_ms, snapshot_ms, verify_ms;
};

struct import {
    struct ctl *c;
    const char *file;
    yaml_document_t doc;
    bool expand, no_delete;
    struct unit *unit; /* Litestream's; NULL: not looked for yet, or none */
    bool unit_sought;
    char **unset; /* variables that stand in the result as ${NAME} */
    size_t n_unset;
    struct import_history history;
    struct import_settings dflt;
    struct buf notes;             /* comments above the section being written */
    struct buf walsup, dbs, warnings;
    struct import_target *target;
    size_t n_targets;
    char **db_name;
    size_t n_db_names;
    struct err err; /* refused */
};

struct import_db {
    char *name, *path;
    const char *pages, *pattern, *dir;
    bool recursive;
    unsigned line;
    struct buf targets;  /* ", " between */
    struct buf replicas; /* their sections */
    struct import_history history;
    bool differ; /* the replicas want different ones */
};

/** import_note(x, line, key, why): a comment above the section that is written next; import_warn: the
 * same, and it is said. import_take_notes moves them to where they belong. */
void import_note(struct import *x, unsigned line, const char *key, const char *why);
void import_warn(struct import *x, unsigned line, const char *key, const char *why);
void import_take_notes(struct import *x, struct buf *to);
/** import_put(x, b, key, value): one line; what an INI cannot hold becomes a comment.
 * import_put_duration: the same of one of Go's durations, moved into the limits. */
void import_put(struct import *x, struct buf *b, const char *key, const char *value);
void import_put_duration(struct import *x, struct buf *b, const char *key, const char *text,
                         uint64_t min_ms, uint64_t max_ms);
/** import_put_ms(b, key, ms). */
void import_put_ms(struct buf *b, const char *key, uint64_t ms);
/** import_name(text, taken, x): a name for a section made of text, which no other has. */
char *import_name(const char *text, bool (*taken)(const struct import *x, const char *name),
                  const struct import *x);
/** import_path(path, absolute, ret_last): path without empty and "." components and without the last
 * one, which goes to *ret_last ("" if there is none); both malloc'ed. */
char *import_path(const char *path, bool absolute, char **ret_last);
/** import_setting(x, p, s): one pair of a replica, or of the defaults; false: that replica cannot be
 * imported. */
bool import_setting(struct import *x, const struct import_pair *p, struct import_settings *s);
/** import_replica(x, d, node): the target and the sections of one replica of d. */
void import_replica(struct import *x, struct import_db *d, const yaml_node_t *node);

#endif
