/* Status and Metrics: one message each, written in pieces as the client takes them. Of ten thousand databases it is
 * megabytes: neither the loop nor the memory is for making it at once. */
#include "daemon/control/ctlserver_int.h"

#include "daemon/control/metrics.h"
#include "daemon/control/status.h"

#define PIECE_BYTES (32u << 10)
#define STREAM_MS 1000
#define STREAM_MIN_MS 100
#define STREAM_MAX_MS 3600000

struct ctl_stream {
    struct client *client;
    struct status_walk *status; /* one of the two */
    struct metrics_at at;
    struct manager *m;
    bool begun, continues; /* continues: it is one of many messages */
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

void ctl_stream_next(struct ctl_stream *s, bool ok)
{
    struct buf out = BUF_INIT;
    if (!ok) {
        stream_free(s);
        return;
    }
    if (!s->begun)
        buf_add_str(&out, "{\"parameters\":");
    bool more = s->status ? status_walk_piece(s->status, &out, PIECE_BYTES) : metrics_text(s, &out);
    struct client *cl = s->client;
    s->begun = true;
    if (more) {
        ctl_piece(cl, &out, s);
        return;
    }
    buf_add_str(&out, s->continues ? ",\"continues\":true}" : "}");
    buf_add(&out, "", 1);
    stream_free(s);
    ctl_piece(cl, &out, NULL);
}

static void begin(struct client *cl, struct status_walk *status, bool continues)
{
    struct ctl_stream *s = util_zalloc(sizeof *s);
    s->client = cl;
    s->m = ctl_manager(cl);
    s->status = status;
    s->continues = continues;
    ctl_stream_next(s, true);
}

/* Called again for each answer of a stream: what was asked for may be gone by then. */
void ctl_call_status(struct client *cl, json_t *p)
{
    const char *name = NULL;
    struct database *db;
    struct err e;
    json_int_t limit = -1, every = STREAM_MS;
    if (ctl_unpack(p, &e, "{s?:s, s?:I, s?:I}", "db", &name, "limit", &limit, "interval_ms", &every) < 0 ||
        ctl_find_db(ctl_manager(cl), name, &db, &e) < 0) {
        ctl_reply_err(cl, &e);
        return;
    }
    if (ctl_wants_more(cl))
        ctl_again(cl, (uint64_t)MAX((json_int_t)STREAM_MIN_MS, MIN(every, (json_int_t)STREAM_MAX_MS)), ctl_call_status,
                  p);
    begin(cl, status_walk_new(ctl_manager(cl), db, limit < 0 ? SIZE_MAX : (size_t)limit), ctl_wants_more(cl));
}

void ctl_call_metrics(struct client *cl, json_t *p)
{
    struct err e;
    if (ctl_unpack(p, &e, "{}") < 0)
        ctl_reply_err(cl, &e);
    else
        begin(cl, NULL, false);
}
