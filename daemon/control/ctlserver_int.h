/* ctlserver_int.h - what the parts of the control socket share: ctlserver.c (who comes, what is
 * called), ctlserver_client.c (a connection, its answers), ctlserver_socket.c (the socket),
 * ctlserver_methods.c (the table; list, reload), ctlserver_stream.c (status, metrics),
 * ctlserver_sync.c, ctlserver_pause.c, ctlserver_history.c (snapshots, comparisons with the
 * buckets), ctlserver_adopt.c, ctlserver_map.c (page maps). Loop thread only. */
#ifndef WALSUP_CTLSERVER_INT_H
#define WALSUP_CTLSERVER_INT_H

#include <jansson.h>

#include "daemon/control/ctlserver.h"
#include "daemon/core/manager.h"

struct client;

/* One row of the table of methods. */
struct ctl_method {
    const char *name; /* whole */
    bool admin;       /* for root and the daemon's user only */
    const char *text; /* as in the interface's description; NULL: not of our interface */
    void (*call)(struct client *cl, json_t *parameters);
};

/** ctl_method_find(name): NULL if there is none. ctl_method_unknown(cl, name): the answer then. */
const struct ctl_method *ctl_method_find(const char *name);
void ctl_method_unknown(struct client *cl, const char *name);

/* ctlserver_socket.c */
struct ctl_socket {
    int fd;
    char *path; /* NULL: systemd owns it */
    dev_t dev;
    ino_t ino;
};
/** ctl_socket_open(path, ret, e): take the one that systemd passed, or bind path; a stale one is replaced, one that
 * answers is ERR_BUSY. ctl_socket_done(s): ctlserver_ended() removes it; does not close it. */
int ctl_socket_open(const char *path, struct ctl_socket *ret, struct err *e);
void ctl_socket_done(struct ctl_socket *s);

/** ctl_reply_ok(cl, parameters): takes the reference. ctl_reply_err(cl, e). Every call ends in one of them; if the
 * client is gone they do nothing. */
void ctl_reply_ok(struct client *cl, json_t *parameters);
void ctl_reply_err(struct client *cl, const struct err *e);
/** ctl_reply(cl, msg): a whole message; takes the reference. ctl_reply_varlink(cl, error, key, value, e): one of
 * Varlink's own errors, with our words beside its parameter. */
void ctl_reply(struct client *cl, json_t *msg);
void ctl_reply_varlink(struct client *cl, const char *error, const char *key, const char *value, const struct err *e);
/** ctl_wants_more(cl): whether the call asks for a stream of answers. ctl_again(cl, next_ms, again, p): the next answer
 * is one of it; again(cl, p) makes the one after, that much after the client has taken this one, and may end the stream
 * with any other answer. */
bool ctl_wants_more(const struct client *cl);
void ctl_again(struct client *cl, uint64_t next_ms, void (*again)(struct client *cl, json_t *p), json_t *p);
/** ctl_piece(cl, b, s): takes the bytes of b, a part of a message. Once they are written, or cannot
 * be, ctl_stream_next(s, ok) is called, which sends another or ends; maybe before this returns. s
 * NULL: the end of the message. */
struct ctl_stream;
void ctl_piece(struct client *cl, struct buf *b, struct ctl_stream *s);
/** ctl_unpack(p, e, fmt, ...): as json_unpack; unknown names and wrong types are errors. */
int ctl_unpack(json_t *p, struct err *e, const char *fmt, ...);
/** ctl_uid(cl): the peer's, as the kernel says. */
unsigned ctl_uid(const struct client *cl);
struct manager *ctl_manager(const struct client *cl);
/** ctl_find_db(m, name, ret, e): name NULL: *ret NULL, which stands for all. */
int ctl_find_db(const struct manager *m, const char *name, struct database **ret, struct err *e);
json_t *ctl_hex(uint64_t v);
/** ctl_hold(cl, abandon, arg): the answer comes later; abandon(arg) is called if the client goes away before. Until
 * ctl_release(cl). */
void ctl_hold(struct client *cl, void (*abandon)(void *arg), void *arg);
void ctl_release(struct client *cl);
/** ctl_file(cl, path): takes the path of a file that is good for as long as the client stays: removed then, or when it
 * is given another one. */
void ctl_file(struct client *cl, char *path);

/* ctlserver_stream.c */
/** ctl_stream_next(s, ok): the next piece; not ok: nobody wants it, and s is freed. */
void ctl_stream_next(struct ctl_stream *s, bool ok);
void ctl_call_status(struct client *cl, json_t *p);
void ctl_call_metrics(struct client *cl, json_t *p);

/* ctlserver_sync.c */
void ctl_call_sync(struct client *cl, json_t *p);

/* ctlserver_history.c */
void ctl_call_snapshot(struct client *cl, json_t *p);
void ctl_call_takeover(struct client *cl, json_t *p);
void ctl_call_reconcile(struct client *cl, json_t *p);

/* ctlserver_adopt.c */
void ctl_call_adopt(struct client *cl, json_t *p);

/* ctlserver_pause.c */
void ctl_call_pause(struct client *cl, json_t *p);
void ctl_call_resume(struct client *cl, json_t *p);

/* ctlserver_map.c */
void ctl_call_page_map(struct client *cl, json_t *p);

#endif
