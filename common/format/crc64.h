/* crc64.h - CRC-64/GO-ISO (x^64+x^4+x^3+x+1, reflected, init and final all ones): the checksum of
 * LTX files and pages. Pure; any thread. */
#ifndef WALSUP_CRC64_H
#define WALSUP_CRC64_H

#include "common/base/util.h"

/** crc64(crc, p, n): the finalised CRC of (bytes already summed to `crc`) followed by p[0..n).
 * Start with 0. crc64(0, "123456789", 9) == 0xb90956c775a41001. Uses PCLMULQDQ where the
 * processor has it, else slicing tables. */
uint64_t crc64(uint64_t crc, const void *p, size_t n);
/** crc64_portable(crc, p, n): the same without the special instructions (tests compare both). */
uint64_t crc64_portable(uint64_t crc, const void *p, size_t n);
/** crc64_combine(a, b, n_b): the CRC of A followed by B from crc64(0, A), crc64(0, B) and B's
 * length in bytes; lets several threads share one file checksum. */
uint64_t crc64_combine(uint64_t a, uint64_t b, uint64_t n_b);

#endif
