/* check.h - what the parts of `walsupctl check` share: lines, and what stands in them. */
#ifndef WALSUP_CHECK_H
#define WALSUP_CHECK_H

#include <uv.h>

#include "ctl/ctl.h"
#include "ctl/out.h"

enum verdict { OK, WARNING, FAILED };

struct check {
    struct ctl *c;
    const char *state_dir;
    uv_loop_t loop;
    unsigned failed, warned;
    json_t *steps; /* of the target or database at hand */
};

/** check_step(k, name, v, text, hint): one line: what was tried and what came of it. */
void check_step(struct check *k, const char *name, enum verdict v, const char *text, const char *hint);
/** check_step_err(k, name, e): it failed. */
void check_step_err(struct check *k, const char *name, const struct err *e);
/** check_target(k, target): a round trip, from the name of the host to the deletion of what it wrote. */
void check_target(struct check *k, const struct conf_target *target);

#endif
