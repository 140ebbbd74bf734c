/* check.h - what the parts of `walsupctl check` share: lines, what stands in them, and as whom it is judged. */
#ifndef WALSUP_CHECK_H
#define WALSUP_CHECK_H

#include <uv.h>

#include "common/store/needs.h"
#include "ctl/ctl.h"
#include "ctl/out.h"
#include "ctl/unit.h"

enum verdict { OK, WARNING, FAILED };

struct service; /* check_service.c */

struct check {
    struct ctl *c;
    const char *config; /* absolute */
    const char *state_dir;
    uv_loop_t loop;
    unsigned failed, warned;
    char *heading;           /* printed above the next line; NULL: there is one already */
    json_t *steps;           /* of the target or database at hand */
    struct service *service; /* NULL: judged as the process that it is */
    struct needs needs;      /* of the whole configuration */
};

/** check_step(k, name, v, text, hint): one line: what was tried and what came of it. */
void check_step(struct check *k, const char *name, enum verdict v, const char *text, const char *hint);
/** check_step_err(k, name, e): it failed. */
void check_step_err(struct check *k, const char *name, const struct err *e);
/** check_target(k, target): a round trip, from the name of the host to the deletion of what it wrote. */
void check_target(struct check *k, const struct conf_target *target);
/** check_database(k, d), check_pattern(k, conf, d): a [db]. */
void check_database(struct check *k, const struct conf_db *d);
void check_pattern(struct check *k, const struct conf *conf, const struct conf_db *d);

/* ---- as the service (check_service.c) --------------------------------------------------------- */

/** service_new(unit): find out what the unit gives to its process, and hand over the unit. Root also gets the
 * credentials, in a directory that service_clean(s) removes. */
struct service *service_new(struct unit *unit);
void service_clean(struct service *s);
struct service *service_free(struct service *s);
/** service_become(s): this process gets the environment of the service, and if it is root its user, groups and
 * capabilities. There is no way back. */
void service_become(struct service *s);
/** service_check(k, conf): the lines about the unit, its user, its environment, and the files of [walsup]. conf is NULL
 * if the service cannot read the configuration, which is then said. Returns the object for --json. */
json_t *service_check(struct check *k, const struct conf *conf);
/** service_reaches(k, step, path, write): whether the unit's sandbox leaves the path to the service; if not, says so.
 * True if there is no service. */
bool service_reaches(struct check *k, const char *step, const char *path, bool write);
/** service_reads(k, what, name): whether the service can read every file that a target (what, name) names; says which it
 * cannot. True if there is no service. */
bool service_reads(struct check *k, const char *what, const char *name);
/** service_connects(k, address, name): whether the unit lets the service talk to the address of a server, and to a name
 * server if `name` (the endpoint's host) is not an address itself; if not, says so. True if there is no service. */
bool service_connects(struct check *k, const char *address, const char *name);
/** service_denied(k, path, write, e): hint for an EACCES or EPERM about a path, put into e. */
void service_denied(const struct check *k, const char *path, bool write, struct err *e);
/** service_no_keys(k, e): no keys were found: if the shell that called has some, put that and what to do into e. */
void service_no_keys(const struct check *k, struct err *e);

#endif
