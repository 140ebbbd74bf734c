#include "ctl/out.h"

#include "common/base/clk.h"

static size_t columns_of(const char *s)
{
    size_t n = 0;
    for (; *s; s++)
        n += ((unsigned char)*s & 0xc0) != 0x80;
    return n;
}

void out_text(FILE *f, const char *s)
{
    for (; *s; s++)
        (void)fputc((unsigned char)*s >= ' ' && *s != 0x7f ? *s : *s == '\n' ? '\n' : '?', f);
}

void out_wrapped(FILE *f, unsigned indent, const char *s)
{
    unsigned column = 0;
    while (*s) {
        s += strspn(s, " \n");
        size_t n = strcspn(s, " \n");
        cleanup_free char *word = strndup(s, n);
        unsigned width = word ? (unsigned)columns_of(word) : 0;
        if (column && column + 1 + width > OUT_WIDTH) {
            (void)fputc('\n', f);
            column = 0;
        }
        if (n) {
            (void)fprintf(f, "%*s", column ? 1 : (int)indent, "");
            column += (column ? 1 : indent) + width;
            out_text(f, word ? word : "");
        }
        s += n;
    }
    (void)fputc('\n', f);
}

void out_tone(FILE *f, enum out_tone tone)
{
    static const char *const code[] = {"\033[0m", "\033[32m", "\033[33m", "\033[31m"};
    static int colour = -1;
    if (colour < 0) {
        const char *no = getenv("NO_COLOR"), *term = getenv("TERM");
        colour = !(no && *no) && term && strcmp(term, "dumb") != 0;
    }
    if (colour && isatty(fileno(f)))
        (void)fputs(code[tone], f);
}

/* ---- tables --------------------------------------------------------------------------------- */

struct out_row *out_row(struct out_table *t)
{
    t->row = util_realloc(t->row, (t->n + 1) * sizeof *t->row);
    t->row[t->n] = (struct out_row){0};
    return &t->row[t->n++];
}

static void print_cell(const char *s, size_t width, bool last)
{
    size_t have = columns_of(s);
    if (have > width) { /* the end of a name tells more than nothing: cut the middle out */
        size_t keep = width - 2, at = 0;
        const char *p = s;
        for (; *p && at < keep; p++)
            at += ((unsigned char)p[1] & 0xc0) != 0x80;
        cleanup_free char *cut = strndup(s, (size_t)(p - s));
        out_text(stdout, cut ? cut : "");
        (void)fputs("..", stdout);
        have = width;
    } else {
        out_text(stdout, s);
    }
    if (!last)
        printf("%*s", (int)(width - MIN(have, width)) + 2, "");
}

void out_table_print(const struct out_table *t)
{
    size_t width[OUT_COLUMNS] = {0}, columns = 0, total = 0;
    for (; t->head[columns]; columns++) {
        width[columns] = columns_of(t->head[columns]);
        for (size_t r = 0; r < t->n; r++)
            if (t->row[r].cell[columns])
                width[columns] = MAX(width[columns], columns_of(t->row[r].cell[columns]));
        total += width[columns] + (columns ? 2 : 0);
    }
    while (total > OUT_WIDTH) { /* take from the widest of those that may give */
        size_t widest = OUT_COLUMNS;
        for (size_t i = 0; i < columns; i++)
            if ((t->shrink >> i & 1) && width[i] > 8 &&
                (widest == OUT_COLUMNS || width[i] > width[widest]))
                widest = i;
        if (widest == OUT_COLUMNS)
            break;
        width[widest]--;
        total--;
    }
    for (size_t i = 0; i < columns; i++)
        print_cell(t->head[i], width[i], i + 1 == columns);
    (void)fputc('\n', stdout);
    for (size_t r = 0; r < t->n; r++) {
        out_tone(stdout, t->row[r].tone);
        for (size_t i = 0; i < columns; i++)
            print_cell(t->row[r].cell[i] ? t->row[r].cell[i] : "-", width[i], i + 1 == columns);
        out_tone(stdout, OUT_PLAIN);
        (void)fputc('\n', stdout);
        if (t->row[r].note)
            out_wrapped(stdout, 4, t->row[r].note);
    }
}

void out_table_done(struct out_table *t)
{
    for (size_t r = 0; r < t->n; r++) {
        for (size_t i = 0; i < OUT_COLUMNS; i++)
            free(t->row[r].cell[i]);
        free(t->row[r].note);
    }
    free(t->row);
    t->row = NULL;
    t->n = 0;
}

/* ---- JSON and errors ------------------------------------------------------------------------ */

int out_json(json_t *j)
{
    (void)json_dumpf(j, stdout, JSON_INDENT(2));
    (void)fputc('\n', stdout);
    json_decref(j);
    return 0;
}

static void print_error(const char *kind, const struct err *e)
{
    (void)fprintf(stderr, "walsupctl: %s", kind);
    out_text(stderr, e->msg);
    (void)fputc('\n', stderr);
    if (!*e->hint)
        return;
    (void)fputs("hint: ", stderr);
    out_text(stderr, e->hint);
    (void)fputc('\n', stderr);
}

void out_error(const struct err *e)
{
    print_error("", e);
}

void out_warning(const struct err *e)
{
    print_error("warning: ", e);
}

static json_t *error_object(const struct err *e)
{
    return json_pack("{s:s, s:s%, s:s%}", "code", err_name(e->code), "message", e->msg,
                     strlen(e->msg), "hint", e->hint, strlen(e->hint));
}

int out_fail(bool json, const struct err *e)
{
    out_error(e);
    if (json)
        (void)out_json(json_pack("{s:o}", "error", error_object(e)));
    return err_exit_status(e->code);
}

int out_fail_json(const struct err *e, const char *lines)
{
    json_t *problems = json_array();
    out_text(stderr, lines);
    while (*lines) {
        size_t n = strcspn(lines, "\n");
        while (lines[n] == '\n' && lines[n + 1] == ' ') /* belongs to the line before */
            n += 1 + strcspn(lines + n + 1, "\n");
        (void)json_array_append_new(problems, json_stringn(lines, n));
        lines += n + (lines[n] == '\n');
    }
    (void)out_json(json_pack("{s:o, s:o}", "error", error_object(e), "problems", problems));
    return err_exit_status(e->code);
}

/* ---- progress ------------------------------------------------------------------------------- */

static void draw_bar(struct out_progress *p, uint64_t done, uint64_t total, unsigned percent)
{
    char a[32], b[32], bar[31];
    uint64_t now = clk_mono_ms();
    if (p->active && now < p->next_ms && percent < 100)
        return;
    p->next_ms = now + 100;
    memset(bar, ' ', sizeof bar - 1);
    memset(bar, '#', percent * (sizeof bar - 1) / 100);
    bar[sizeof bar - 1] = '\0';
    if (total)
        (void)fprintf(stderr, "\r%-10.10s [%s] %3u %%  %s of %s\033[K", p->phase, bar, percent,
                      util_size(a, done), util_size(b, total));
    else
        (void)fprintf(stderr, "\r%-10.10s %s\033[K", p->phase, done ? util_size(a, done) : "");
    (void)fflush(stderr);
    p->active = true;
}

void out_progress(struct out_progress *p, const char *phase, uint64_t done, uint64_t total)
{
    unsigned percent = total ? (unsigned)((double)MIN(done, total) * 100 / (double)total) : 0;
    char a[32], b[32];
    if (p->quiet)
        return;
    bool new_phase = strncmp(p->phase, phase, sizeof p->phase - 1) != 0;
    if (new_phase) {
        (void)snprintf(p->phase, sizeof p->phase, "%s", phase);
        p->percent = 0;
        p->next_ms = 0;
    }
    if (isatty(STDERR_FILENO)) {
        draw_bar(p, done, total, percent);
    } else if (total && percent / 10 > p->percent / 10) {
        (void)fprintf(stderr, "%s: %u %% (%s of %s)\n", p->phase, percent / 10 * 10,
                      util_size(a, done), util_size(b, total));
        p->percent = percent;
    }
}

void out_progress_end(struct out_progress *p)
{
    if (p->active)
        (void)fputs("\r\033[K", stderr);
    p->active = false;
}

const char *out_short_duration(char buf[static 32], uint64_t ms)
{
    uint64_t s = ms / 1000;
    if (s < 120)
        (void)snprintf(buf, 32, "%us", (unsigned)s);
    else if (s < 120 * 60)
        (void)snprintf(buf, 32, "%um", (unsigned)(s / 60));
    else if (s < 48 * 3600)
        (void)snprintf(buf, 32, "%uh", (unsigned)(s / 3600));
    else
        (void)snprintf(buf, 32, "%llud", (unsigned long long)(s / 86400));
    return buf;
}
