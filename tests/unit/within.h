#pragma once
#include <stdint.h>
/* cmocka 1's assert_in_range(), which cmocka 2 warns of; its successors are not in cmocka 1. After cmocka.h. */
#define assert_within(value, least, most)                                                          \
    do {                                                                                           \
        uintmax_t within_v = (uintmax_t)(value);                                                   \
        if (within_v < (uintmax_t)(least) || within_v > (uintmax_t)(most))                         \
            fail_msg("%s is %ju, not from %s to %s", #value, within_v, #least, #most);             \
    } while (0)
