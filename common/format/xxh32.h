/* xxh32.h - xxHash32 with seed 0: the content checksum of LZ4 frames. Pure; any thread. */
#ifndef WALSUP_XXH32_H
#define WALSUP_XXH32_H

#include "common/base/util.h"

uint32_t xxh32(const void *p, size_t n);

#endif
