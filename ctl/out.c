#include "ctl/out.h"

#include <time.h>

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
        cleanup_free char *word = util_strndup(s, n);
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

void out_sentence(FILE *f, const char *s)
{
    if (isatty(fileno(f)) && columns_of(s) > OUT_WIDTH) {
        out_wrapped(f, 0, s);
        return;
    }
    out_text(f, s);
    (void)fputc('\n', f);
}

void out_sentences(FILE *f, const char *lines)
{
    for (const char *p = lines, *end; *p; p = *end ? end + 1 : end) {
        end = p + strcspn(p, "\n");
        cleanup_free char *line = util_strndup(p, (size_t)(end - p));
        out_sentence(f, line ? line : "");
    }
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

static const char *after_columns(const char *s, size_t n)
{
    for (; *s && n; s++)
        n -= ((unsigned char)s[1] & 0xc0) != 0x80;
    return s;
}

static void print_cell(const char *s, size_t width, bool last)
{
    size_t have = columns_of(s);
    if (have > width) { /* names differ at their ends: the middle goes */
        size_t tail = (width - 2) / 2;
        cleanup_free char *head = util_strndup(s, (size_t)(after_columns(s, width - 2 - tail) - s));
        out_text(stdout, head ? head : "");
        (void)fputs("..", stdout);
        out_text(stdout, after_columns(s, have - tail));
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
    cleanup_free char *text = util_printf("walsupctl: %s%s", kind, e->msg), *hint = util_printf("hint: %s", e->hint);
    out_sentence(stderr, text);
    if (*e->hint)
        out_sentence(stderr, hint);
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

const char *out_moment(char buf[static OUT_MOMENT_SIZE], int64_t ms)
{
    int64_t rest = ms % 1000 < 0 ? ms % 1000 + 1000 : ms % 1000;
    time_t s = (time_t)((ms - rest) / 1000);
    struct tm t;
    char text[24];
    if (!gmtime_r(&s, &t) || !strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &t))
        (void)snprintf(text, sizeof text, "?");
    (void)snprintf(buf, OUT_MOMENT_SIZE, "%.20s.%03uZ", text, (unsigned)rest);
    return buf;
}

/* The rate of the last seconds, smoothed: what a line is worth changes. */
static void measure(struct out_progress *p, uint64_t done, uint64_t now)
{
    uint64_t ms = now - p->at_ms;
    if (done < p->at_bytes || ms < 500)
        return;
    double rate = (double)(done - p->at_bytes) / (double)ms;
    p->rate = p->rate > 0 ? p->rate * 0.7 + rate * 0.3 : rate;
    p->at_ms = now;
    p->at_bytes = done;
}

/* "1.2 GiB of 2.8 GiB, 310 MiB/s, 5 s left" */
static void describe(const struct out_progress *p, uint64_t done, uint64_t total, uint64_t now,
                     struct buf *b)
{
    char x[32], y[32];
    double rate = p->rate;
    if (rate <= 0 && now > p->begin_ms && done > p->begin_bytes)
        rate = (double)(done - p->begin_bytes) / (double)(now - p->begin_ms);
    buf_printf(b, "%s of %s", util_size(x, done), util_size(y, total));
    if (rate <= 0)
        return;
    buf_printf(b, ", %s/s", util_size(x, (uint64_t)(rate * 1000)));
    double left = (double)(total - MIN(done, total)) / rate;
    if (left >= 1000 && left < 1e12)
        buf_printf(b, ", %s left", util_duration(x, (uint64_t)left / 1000 * 1000));
}

static void draw(struct out_progress *p, uint64_t done, uint64_t total, unsigned percent,
                 uint64_t now)
{
    char size[32];
    cleanup_buf struct buf b = BUF_INIT;
    if (p->active && now < p->next_ms && percent < 100)
        return;
    p->next_ms = now + 100;
    if (total) {
        describe(p, done, total, now, &b);
        (void)fprintf(stderr, "\r%-8.11s %3u %%  %s\033[K", p->phase, percent, buf_str(&b));
    } else {
        (void)fprintf(stderr, "\r%-8.11s %s\033[K", p->phase, done ? util_size(size, done) : "");
    }
    (void)fflush(stderr);
    p->active = true;
}

static void begin_phase(struct out_progress *p, const char *phase, uint64_t done, uint64_t now)
{
    (void)snprintf(p->phase, sizeof p->phase, "%s", phase);
    p->percent = 0;
    p->next_ms = 0;
    p->begin_ms = p->at_ms = now;
    p->begin_bytes = p->at_bytes = done;
    p->rate = 0;
}

void out_progress(struct out_progress *p, const char *phase, uint64_t done, uint64_t total)
{
    unsigned percent = total ? (unsigned)((double)MIN(done, total) * 100 / (double)total) : 0;
    uint64_t now = clk_mono_ms();
    if (p->quiet)
        return;
    if (strncmp(p->phase, phase, sizeof p->phase - 1) != 0)
        begin_phase(p, phase, done, now);
    measure(p, done, now);
    if (isatty(STDERR_FILENO)) {
        draw(p, done, total, percent, now);
    } else if (total && percent / 10 > p->percent / 10) {
        cleanup_buf struct buf b = BUF_INIT;
        describe(p, done, total, now, &b);
        (void)fprintf(stderr, "%s: %u %% (%s)\n", p->phase, percent / 10 * 10, buf_str(&b));
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
