/* merge.h - several LTX files that follow each other to one: compaction. Pure; any thread. The rules are
 * those of the format (DESIGN.md, "Merging"). */
#ifndef WALSUP_MERGE_H
#define WALSUP_MERGE_H

#include "common/format/ltx.h"

struct merge_input {
    const uint8_t *p; /* the whole file, in memory or mapped */
    size_t n;
};

struct merge_output {
    struct ltx_header h; /* of the new file */
    uint64_t size;
    uint32_t pages;
};

/** merge_ltx(in, n, encoding, write, arg, ret, e): the files in the order of their TXIDs. Every byte of each
 * is verified. Of every page the newest version is written, those beyond the last file's commit are
 * left out; size, time, lineage and last TXID are those of the last file, the first TXID is the first
 * one's. ERR_CORRUPT: a file is damaged (the message starts with its position, from 1), leaves a gap, or
 * has another page size or lineage than the first. Memory: two pages, 128 KiB, 200 bytes a file and 10 bytes a
 * page. write: see ltx_encoder_new. */
int merge_ltx(const struct merge_input *in, size_t n, enum ltx_encoding encoding, ltx_write_fn write,
              void *arg, struct merge_output *ret, struct err *e);

#endif
