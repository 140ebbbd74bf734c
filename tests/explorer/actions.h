/* actions.h - what an application may do in the middle of anything. */
#ifndef ACTIONS_H
#define ACTIONS_H

#include <stddef.h>

struct action {
    const char *name;
    void (*run)(void);
};

extern const struct action actions[];
extern const size_t n_actions;

#endif
