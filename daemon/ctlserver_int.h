/* ctlserver_int.h - what the methods of the control socket share: ctlserver.c (clients, status, sync, reload) 
 * ctlserver_history.c (snapshots, comparisons with the buckets), ctlserver_map.c (page maps). Loop thread only. */
#ifndef WALSUP_CTLSERVER_INT_H
#define WALSUP_CTLSERVER_INT_H

#include <jansson.h>

#include "daemon/ctlserver.h"
#include "daemon/manager.h"

struct client;

/** ctl_reply_ok(cl, parameters): takes the reference. ctl_reply_err(cl, e). Every call ends in one of them; if the
 * client is gone they do nothing. */
void ctl_reply_ok(struct client *cl, json_t *parameters);
void ctl_reply_err(struct client *cl, const struct err *e);
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

/* ctlserver_history.c */
void ctl_call_snapshot(struct client *cl, json_t *p);
void ctl_call_takeover(struct client *cl, json_t *p);
void ctl_call_reconcile(struct client *cl, json_t *p);

/* ctlserver_pause.c */
void ctl_call_pause(struct client *cl, json_t *p);
void ctl_call_resume(struct client *cl, json_t *p);

/* ctlserver_map.c */
void ctl_call_page_map(struct client *cl, json_t *p);

#endif
