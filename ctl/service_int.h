/* service_int.h - what service_env.c (what the unit gives to its process) and check_service.c (what that one reaches)
 * share. Nobody else includes this. */
#ifndef WALSUP_SERVICE_INT_H
#define WALSUP_SERVICE_INT_H

#include "ctl/check.h"

#define SERVICE_GROUPS 256

/* found before there was a place to print it */
struct finding {
    char *step, *text, *hint;
    enum verdict v;
};

struct service {
    struct unit *unit;
    struct unit_view *view;
    struct finding *found;
    size_t n_found;
    char **env; /* NAME=VALUE */
    size_t n_env;
    char *credentials; /* directory, of this process; NULL: none */
    char *user, *home, *shell;
    uid_t uid;
    gid_t gid;
    gid_t group[SERVICE_GROUPS];
    int n_groups;
    bool drop; /* this process is root, and the service is not */
    bool as_root;
    char *shell_keys; /* where the shell has keys; NULL: it has none */
};

/** service_env_keys(s): note where the shell that called has keys. service_env_user(s): who the unit's process is.
 * service_env_take(s): its environment; service_env_credentials(s): and its credentials. What is wrong with them is
 * added to `found`. */
void service_env_keys(struct service *s);
void service_env_user(struct service *s);
void service_env_take(struct service *s);
void service_env_credentials(struct service *s);
/** service_env_done(s): free environment and findings. */
void service_env_done(struct service *s);

#endif
