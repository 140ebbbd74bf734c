#include "ctl/restore_pattern.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <sys/stat.h>

#include "common/format/name.h"
#include "common/store/needs.h"
#include "ctl/out.h"
#include "ctl/replicas.h"

struct pattern {
    const struct conf *conf;
    const struct conf_db *d;
    const struct conf_replica *replica; /* at hand */
};

/* A link to a directory is followed, as the daemon does, but not to one in which this began, which would be endless. */
static bool endless(const struct pattern *p, const char *path)
{
    cleanup_free char *real = realpath(path, NULL), *base = realpath(glob_base(p->d->glob), NULL);
    return !real || !base || needs_below(real, base) || needs_below(base, real);
}

/* whether a file that is not empty matches, at any depth */
static bool any_below(const struct pattern *p, const char *dir, glob_at at)
{
    DIR *d = opendir(dir);
    bool any = false;
    for (const struct dirent *ent; d && !any && (ent = readdir(d));) {
        size_t n = strlen(ent->d_name);
        glob_at next = glob_step(p->d->glob, at, ent->d_name, n);
        if (!next || glob_aside(ent->d_name, n) || !strcmp(ent->d_name, ".") || !strcmp(ent->d_name, ".."))
            continue;
        cleanup_free char *path = util_printf("%s/%s", dir[1] ? dir : "", ent->d_name);
        struct stat st, own;
        if (lstat(path, &own) < 0 || stat(path, &st) < 0 || conf_aside(p->conf, path))
            continue;
        if (S_ISLNK(own.st_mode) && S_ISDIR(st.st_mode) && endless(p, path))
            continue;
        if (S_ISDIR(st.st_mode) && glob_below(p->d->glob, next))
            any = any_below(p, path, next);
        else
            any = S_ISREG(st.st_mode) && st.st_size > 0 && glob_file(p->d->glob, next);
    }
    if (d)
        (void)closedir(d);
    return any;
}

/* not of another section below the same prefix */
static bool is_of_it(void *arg, const char *replica)
{
    const struct pattern *p = arg;
    const char *base = glob_base(p->d->glob);
    cleanup_free char *rel = name_split(p->replica->path, p->d->name, replica);
    cleanup_free char *path = rel ? util_printf("%s/%s", base[1] ? base : "", rel) : NULL;
    return path && conf_of_path(p->conf, path) == p->d;
}

/* 1: there are replicas, in e */
static int look(struct pattern *p, uv_loop_t *loop, struct err *e)
{
    for (size_t i = 0; i < p->d->n_replicas; i++) {
        struct replicas found = {.n = 0};
        cleanup_buf struct buf text = BUF_INIT;
        p->replica = &p->d->replica[i];
        const struct conf_target *target = &p->conf->target[p->replica->target];
        cleanup_free char *above = name_prefix(p->replica->path, p->d->name);
        cleanup_free char *prefix = *above ? util_printf("%s/", above) : util_strdup("");
        int r = replicas_find(loop, target, prefix, UINT_MAX, is_of_it, p, &found, e);
        bool any = found.n > 0;
        if (any) {
            cleanup_free char *rel = name_split(p->replica->path, p->d->name, found.name[0]);
            cleanup_free char *first = name_make(p->d->name_template, p->d->name, rel);
            replicas_text(&found, &text);
            (void)err_set(e, ERR_NOTFOUND, "no file matches %s, but target %s has replicas: %s",
                          p->d->path, target->name, buf_str(&text));
            (void)err_hint(e, "restore them, as with walsupctl restore %s; if they were removed on purpose, remove the "
                              "replicas as well", first);
        } else if (r < 0) {
            (void)err_wrap(e, "target %s", target->name);
        }
        replicas_done(&found);
        if (any || r < 0)
            return any ? 1 : r;
    }
    return 0;
}

static int nothing_done(const struct ctl *c, const char *name, const char *why)
{
    if (c->json)
        return out_json(json_pack("{s:b, s:s, s:s}", "restored", 0, "database", name, "reason", why));
    printf("%s: %s, nothing to do\n", name, why);
    return 0;
}

bool restore_pattern(struct ctl *c, const char *name, int *ret_status)
{
    struct conf *conf = NULL;
    struct err e = {0};
    uv_loop_t loop;
    if (!ctl_load(c, &conf, ret_status))
        return true;
    struct pattern p = {.conf = conf, .d = conf_find_db(conf, name)};
    bool it = p.d && p.d->glob && !strcmp(p.d->name, name);
    if (it && any_below(&p, glob_base(p.d->glob), glob_start(p.d->glob))) {
        *ret_status = nothing_done(c, name, "a file matches the pattern");
    } else if (it) {
        (void)uv_loop_init(&loop);
        *ret_status =
            look(&p, &loop, &e)
                ? out_fail(c->json, &e)
                : nothing_done(c, name, "no file matches the pattern, and there is no replica");
        (void)uv_loop_close(&loop);
    }
    (void)conf_free(conf);
    return it;
}
