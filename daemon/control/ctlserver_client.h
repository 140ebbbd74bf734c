/* ctlserver_client.h - one connection of the control socket: its life, its deadlines, its answers. For ctlserver.c,
 * which lets clients in and reads calls; methods answer them by ctlserver_int.h. Loop thread only. */
#ifndef WALSUP_CTLSERVER_CLIENT_H
#define WALSUP_CTLSERVER_CLIENT_H

#include <sys/socket.h>

#include "daemon/control/ctlserver_int.h"
#include "daemon/os/doorway.h"

enum role { ROLE_NONE, ROLE_READER, ROLE_ADMIN };

struct client {
    struct ctlserver *server;
    uv_pipe_t pipe;
    uv_timer_t timer; /* what it is for: wait */
    enum wait_for { WAIT_CALL, WAIT_REST, WAIT_US, WAIT_READER, WAIT_NEXT } wait;
    struct buf in;
    struct ucred cred;
    enum role role;
    enum { COUNTS_NOT, COUNTS_AS_CLIENT, COUNTS_AS_REFUSED } counts;
    bool closing, busy; /* busy: a call is being answered; the next one waits */
    bool more;          /* it asked for a stream of answers */
    void (*again)(struct client *cl, json_t *p); /* of a stream: makes the next one */
    json_t *again_p;
    uint64_t again_ms;
    size_t unread; /* of the answer, when the timer was started */
    unsigned refs; /* handles open, writes and calls under way */
    void (*abandon)(void *arg); /* of a call that is kept waiting, ctl_hold() */
    void *held;
    char *file; /* made for it, and removed when it goes; or NULL */
    struct client *next;
};

struct ctlserver {
    struct manager *m;
    struct doorway door;
    struct ctl_socket socket;
    gid_t readers; /* the group that may ask for the status; (gid_t)-1: there is none */
    struct client *client;
    unsigned n_clients, n_refused; /* that are not on their way out */
    size_t queued;
    uint64_t refused_ms; /* when a refusal was logged; since then refused more */
    unsigned refused;
    void (*next_call)(struct client *cl);         /* its call was answered: is there another? */
    void (*client_gone)(struct ctlserver *c);     /* and freed */
    bool closing, door_closed;
    void (*closed)(void *arg);
    void *closed_arg;
};

enum reply_kind {
    REPLY,
    REPLY_CONTINUES, /* of a stream */
    REPLY_PIECE,     /* of a message; ctl_stream_next() sends the next one */
    REPLY_LAST,      /* close after it: the client broke the protocol, or has no business here */
};

/** client_close(cl): nothing more is read or answered; it is freed when its handles are closed and nobody holds it. */
void client_close(struct client *cl);
/** client_wait(cl, what, ms): the deadline from here on; WAIT_US: none. */
void client_wait(struct client *cl, enum wait_for what, uint64_t ms);
/** client_reply(cl, msg, kind): takes the reference; nothing, if it is on its way out. */
void client_reply(struct client *cl, json_t *msg, enum reply_kind kind);

#endif
