#include "ctl/dropin.h"

#include <errno.h>
#include <fnmatch.h>
#include <sys/stat.h>

#include "common/base/clk.h"
#include "common/base/fsx.h"
#include "ctl/out.h"

#define MARK "; made by walsupctl add"
#define MAX_BYTES (1u << 20)

char *dropin_path(const struct conf *conf, const char *config, const char *name, struct err *e)
{
    const char *base = conf->include ? strrchr(conf->include, '/') : NULL;
    cleanup_free char *dir = base ? util_strndup(conf->include, (size_t)(base - conf->include)) : NULL;
    cleanup_free char *file = util_printf("%s.ini", name);
    if (dir && !strpbrk(dir, "*?[") && fnmatch(base + 1, file, FNM_PERIOD) == 0)
        return util_printf("%s/%s", dir, file);
    if (conf->include)
        (void)err_set(e, ERR_CONFIG, "include = %s in %s would not read a file %s", conf->include, config, file);
    else
        (void)err_set(e, ERR_CONFIG, "%s has no include, so there is no place for a file of this database", config);
    (void)err_hint(e, "write include = /etc/walsup.d/*.ini in its section [walsup]");
    return NULL;
}

bool dropin_is_ours(const char *path)
{
    cleanup_buf struct buf b = BUF_INIT;
    struct err e;
    return fsx_read(path, MAX_BYTES, &b, &e) == 0 && !strncmp(buf_str(&b), MARK, strlen(MARK));
}

int dropin_write(const char *path, const char *text, struct err *e)
{
    char now[40];
    cleanup_free char *all = util_printf(MARK ", %s; walsupctl remove takes it away\n%s",
                                         util_rfc3339(now, clk_real_ms()), text);
    cleanup_free char *dir = util_strdup(path);
    *strrchr(dir, '/') = '\0';
    cleanup_fsx_tmp struct fsx_tmp t = FSX_TMP_INIT;
    int r = fsx_mkdirs(dir, 0755, e);
    if (r == 0)
        r = fsx_tmp_open(path, 0644, &t, e);
    if (r == 0 && fchmod(t.fd, 0644) < 0) /* whatever the umask: the daemon is somebody else, and it has no secret */
        r = err_sys(e, errno, "chmod %s", t.tmp);
    if (r == 0)
        r = fsx_write_all(t.fd, all, strlen(all), e);
    return r < 0 ? r : fsx_tmp_publish(&t, 0, e);
}

bool dropin_judge(struct ctl *c, const char *path, const char *text, struct conf **ret, int *ret_status)
{
    cleanup_buf struct buf errors = BUF_INIT;
    struct err e = {0};
    cleanup_free char *lines = text ? util_printf("\n%s", text) : NULL; /* in place of the mark */
    if (conf_load_with(c->config, path, lines, ret, &errors, &e) == 0)
        return true;
    if (e.code != ERR_CONFIG) {
        *ret_status = out_fail(c->json, &e);
    } else if (c->json) {
        *ret_status = out_fail_json(&e, buf_str(&errors));
    } else {
        out_text(stderr, buf_str(&errors));
        (void)fputs("walsupctl: nothing was changed\n", stderr);
        *ret_status = err_exit_status(ERR_CONFIG);
    }
    return false;
}
