/* Status and Metrics: one message each, written in pieces as the client takes them. Of ten thousand databases it is
 * megabytes: neither the loop nor the memory is for making it at once. */
#include "daemon/ctlserver_int.h"

#include "daemon/metrics.h"
#include "daemon/status.h"

#define PIECE_BYTES (32u << 10)

struct ctl_stream {
    struct client *client;
    struct status_walk *status; /* one of the two */
    struct metrics_at at;
    struct manager *m;
    bool begun, ended;
};

static void escaped(struct buf *out, const struct buf *text)
{
    for (size_t i = 0; i < text->len; i++) {
        char c = (char)text->p[i]; /* what metrics_sample() leaves: no other control character, UTF-8 */
        if (c == '\n')
            buf_add_str(out, "\\n");
        else if (c == '"' || c == '\\')
            buf_add(out, (const char[]){'\\', c}, 2);
        else
            buf_add(out, &c, 1);
    }
}

static bool metrics_text(struct ctl_stream *s, struct buf *out)
{
    cleanup_buf struct buf text = BUF_INIT;
    if (!s->begun)
        buf_add_str(out, "{\"text\":\"");
    bool more = metrics_piece(s->m, &s->at, &text, PIECE_BYTES);
    escaped(out, &text);
    if (!more)
        buf_add_str(out, "\"}");
    return more;
}

static void stream_free(struct ctl_stream *s)
{
    status_walk_free(s->status);
    free(s);
}

bool ctl_stream_next(struct ctl_stream *s, bool ok)
{
    struct buf out = BUF_INIT;
    if (!ok || s->ended) {
        stream_free(s);
        return false;
    }
    if (!s->begun)
        buf_add_str(&out, "{\"parameters\":");
    bool more = s->status ? status_walk_piece(s->status, &out, PIECE_BYTES) : metrics_text(s, &out);
    s->begun = true;
    s->ended = !more;
    if (!more)
        buf_add(&out, "}", 2); /* with its NUL byte */
    ctl_send(s->client, &out, s);
    return true;
}

static void begin(struct client *cl, struct status_walk *status)
{
    struct ctl_stream *s = util_zalloc(sizeof *s);
    s->client = cl;
    s->m = ctl_manager(cl);
    s->status = status;
    (void)ctl_stream_next(s, true);
}

void ctl_call_status(struct client *cl, json_t *p)
{
    const char *name = NULL;
    struct database *db;
    struct err e;
    json_int_t limit = -1;
    if (ctl_unpack(p, &e, "{s?:s, s?:I}", "db", &name, "limit", &limit) < 0 ||
        ctl_find_db(ctl_manager(cl), name, &db, &e) < 0)
        ctl_reply_err(cl, &e);
    else
        begin(cl, status_walk_new(ctl_manager(cl), db, limit < 0 ? SIZE_MAX : (size_t)limit));
}

void ctl_call_metrics(struct client *cl, json_t *p)
{
    struct err e;
    if (ctl_unpack(p, &e, "{}") < 0)
        ctl_reply_err(cl, &e);
    else
        begin(cl, NULL);
}
