/* wal.h - SQLite's write-ahead log, bytes to structs. Pure; any thread.
 * Source of the format: sqlite.org/fileformat2.html section 4 and wal.c; docs in
 * common/format/DESIGN.md. Frames count from 1. Offsets are 64 bit: a WAL may pass 4 GiB. */
#ifndef WALSUP_WAL_H
#define WALSUP_WAL_H

#include "common/base/err.h"

#define WAL_HEADER_SIZE 32u
#define WAL_FRAME_HEADER_SIZE 24u

struct wal_header {
    bool big_endian; /* byte order of the words summed by the checksum; stored values are
                        always big-endian */
    uint32_t page_size;
    uint32_t sequence; /* never rely on it: see DESIGN.md */
    uint32_t salt[2];  /* compare for equality only, never order */
    uint32_t cksum[2];
};

struct wal_frame {
    uint32_t pgno;
    uint32_t commit; /* database size in pages after the transaction; 0 if not a commit frame */
    uint32_t salt[2];
    uint32_t cksum[2];
};

/** wal_header_parse(p, h, e): decode and check the 32 bytes at p (magic, version, page size,
 * checksum). ERR_CORRUPT otherwise; WAL2 is ERR_UNSUPPORTED. */
int wal_header_parse(const uint8_t p[static WAL_HEADER_SIZE], struct wal_header *ret,
                     struct err *e);
/** wal_checksum(big_endian, p, n, s): continue the running checksum s over n bytes (n % 8 == 0). */
void wal_checksum(bool big_endian, const uint8_t *p, size_t n, uint32_t s[2]);
/** wal_frame_parse(p): decode the 24-byte frame header; no check. */
struct wal_frame wal_frame_parse(const uint8_t p[static WAL_FRAME_HEADER_SIZE]);
/** wal_frame_check(h, p, s, ret): whether p (frame header and page, contiguous) is the valid
 * successor of running checksum s: page number not 0, salts of h, checksum right. When true, s
 * is advanced and *ret filled; when false both are untouched. */
bool wal_frame_check(const struct wal_header *h, const uint8_t *p, uint32_t s[2],
                     struct wal_frame *ret);
/** wal_frame_size(page_size), wal_frame_off(page_size, k): bytes of a frame; file offset of frame
 * k (k >= 1). */
static inline uint64_t wal_frame_size(uint32_t page_size)
{
    return (uint64_t)WAL_FRAME_HEADER_SIZE + page_size;
}
static inline uint64_t wal_frame_off(uint32_t page_size, uint64_t k)
{
    return WAL_HEADER_SIZE + (k - 1) * wal_frame_size(page_size);
}
/** page_size_valid(n): a power of two from 512 to 65536. */
bool page_size_valid(uint32_t n);

/** struct wal_scan: committed frames of WAL bytes fed in order, for files read whole (restore of
 * v0.3 segments, tests, fuzzing). */
struct wal_scan {
    struct wal_header h;
    uint32_t s[2];          /* running checksum after the last valid frame */
    uint64_t valid;         /* valid frames so far */
    uint64_t committed;     /* frames up to and including the last commit frame */
    uint32_t commit_pages;  /* database size of that commit, 0 before the first */
    uint32_t commit_s[2];   /* running checksum after that commit */
};
void wal_scan_init(struct wal_scan *w, const struct wal_header *h);
/** wal_scan_frame(w, p, ret): feed the next frame (header and page); false when it is not valid
 * (the scan ends there; feeding on is not allowed). */
bool wal_scan_frame(struct wal_scan *w, const uint8_t *p, struct wal_frame *ret);

#endif
