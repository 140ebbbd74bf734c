/* unit_harness.h - a unit of systemd from lines of text, in a directory of the test's own. */
#ifndef WALSUP_TESTS_UNIT_HARNESS_H
#define WALSUP_TESTS_UNIT_HARNESS_H

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ctl/unit.h"

static char harness_dir[32];

/* an empty directory; not below /tmp, which units replace */
static inline const char *harness_begin(void)
{
    (void)strcpy(harness_dir, "/var/tmp/walsup-unit-XXXXXX");
    assert_non_null(mkdtemp(harness_dir));
    return harness_dir;
}

static inline int harness_end(void **state)
{
    (void)state;
    cleanup_free char *command = util_printf("rm -rf '%s'", harness_dir);
    return system(command); /* NOLINT: the directory is ours */
}

static inline void harness_write(const char *name, const char *text)
{
    cleanup_free char *path = util_printf("%s/%s", harness_dir, name);
    FILE *f = fopen(path, "we");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

static inline void harness_mkdir(const char *name)
{
    cleanup_free char *path = util_printf("%s/%s", harness_dir, name);
    assert_int_equal(mkdir(path, 0755), 0);
}

/* text with harness_dir in place of each @ */
static inline char *harness_text(const char *text)
{
    cleanup_buf struct buf b = BUF_INIT;
    for (; *text; text++)
        if (*text == '@')
            buf_add_str(&b, harness_dir);
        else
            buf_add(&b, text, 1);
    return util_strdup(buf_str(&b));
}

/* The unit `name` with these lines of [Service]; @ is the directory. */
static inline struct unit *harness_unit(const char *name, const char *lines)
{
    struct unit *u = NULL;
    struct err e = {0};
    cleanup_free char *own = harness_text(lines);
    cleanup_free char *text = util_printf("[Unit]\nUser=of-another-section\n[Service]\n%s\n"
                                          "[Install]\nUser=this-as-well\n", own);
    cleanup_free char *path = util_printf("%s/%s", harness_dir, name);
    harness_write(name, text);
    if (unit_load(path, NULL, &u, &e) < 0)
        fail_msg("%s", e.msg);
    return u;
}

#endif
