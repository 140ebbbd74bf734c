/* out.h - what walsupctl prints: tables for people, JSON for programs, progress, errors. Text from
 * elsewhere never reaches the terminal with control characters in it. */
#ifndef WALSUP_OUT_H
#define WALSUP_OUT_H

#include <jansson.h>

#include "common/base/buf.h"
#include "common/base/err.h"

#define OUT_COLUMNS 6
#define OUT_WIDTH 80

enum out_tone { OUT_PLAIN, OUT_GOOD, OUT_WARN, OUT_BAD };

struct out_row {
    char *cell[OUT_COLUMNS];
    enum out_tone tone;
    char *note; /* printed below the row, wrapped and indented; NULL: none */
};

struct out_table {
    const char *const *head; /* ends with NULL */
    unsigned shrink;         /* bit i: column i may be cut to fit OUT_WIDTH */
    struct out_row *row;
    size_t n;
};

/** out_row(t): a new row at the end; its texts are malloc'ed and owned by the table. */
struct out_row *out_row(struct out_table *t);
void out_table_print(const struct out_table *t);
void out_table_done(struct out_table *t);

/** out_text(f, s): s without control characters other than newlines. */
void out_text(FILE *f, const char *s);
/** out_wrapped(f, indent, s): the same in lines of at most OUT_WIDTH columns, each indented; words
 * longer than that are not broken. */
void out_wrapped(FILE *f, unsigned indent, const char *s);
/** out_sentence(f, s): s on a line of its own; on a terminal it is wrapped if it is too long.
 * out_sentences: each line. */
void out_sentence(FILE *f, const char *s);
void out_sentences(FILE *f, const char *lines);
/** out_tone(f, tone): start a colour (OUT_PLAIN: end it); nothing unless f is a terminal. */
void out_tone(FILE *f, enum out_tone tone);
/** out_json(j): print it and drop the reference; returns 0. */
int out_json(json_t *j);

/** out_error(e): "walsupctl: <sentence>" and "hint: ..." on standard error. out_warning: the same
 * for something that is no failure. */
void out_error(const struct err *e);
void out_warning(const struct err *e);
/** out_fail(json, e): out_error, and with json an object {"error":{...}} on standard output;
 * returns the exit status. out_fail_json adds the member "problems", one per line of lines. */
int out_fail(bool json, const struct err *e);
int out_fail_json(const struct err *e, const char *lines);

#define OUT_MOMENT_SIZE 32u
/** out_moment(buf, ms): UTC, RFC 3339 with milliseconds: "2026-11-24T10:00:00.250Z". Returns buf. */
const char *out_moment(char buf[static OUT_MOMENT_SIZE], int64_t ms);

struct out_progress {
    bool quiet, active;
    char phase[32];
    unsigned percent; /* last one printed */
    uint64_t next_ms; /* when the bar is drawn again */
    /* how fast: where the phase, and where the last few seconds began */
    uint64_t begin_ms, begin_bytes, at_ms, at_bytes;
    double rate; /* bytes per millisecond; 0: not known yet */
};
/** out_progress(p, phase, done, total): bytes; one line that changes on a terminal, else a line for each
 * 10 %, both with rate and time left. out_progress_end(p): leave the line. */
void out_progress(struct out_progress *p, const char *phase, uint64_t done, uint64_t total);
void out_progress_end(struct out_progress *p);

/** out_short_duration(buf, ms): "12s", "5m", "3h", "4d". Returns buf. */
const char *out_short_duration(char buf[static 32], uint64_t ms);

#endif
