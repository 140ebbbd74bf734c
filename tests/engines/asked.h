/* asked.h - requests, counted where the store is asked: what is linked with asked.c needs --wrap for them. */
#ifndef WALSUP_TESTS_ASKED_H
#define WALSUP_TESTS_ASKED_H

#include <stdint.h>

extern struct asked {
    uint64_t puts, gets, lists, deletes, heads;
} asked;

#endif
