/* conf_expand.c - ${NAME} in values: taken from the environment. */
#include "common/base/env.h"
#include "common/base/secret.h"
#include "common/format/conf_int.h"

#define SHOWN 64 /* bytes of a name that is none */

static int bad_name(const char *p, struct err *e)
{
    const char *close = strchr(p, '}');
    if (!close)
        (void)err_set(e, ERR_CONFIG, "'${%.*s' has no closing '}'", SHOWN, p);
    else
        (void)err_set(e, ERR_CONFIG, "'${%.*s}' does not name a variable: letters, digits and _",
                      (int)MIN(close - p, SHOWN), p);
    return err_hint(e, "write $${ for '${' itself");
}

static int not_set(const char *name, bool empty, struct err *e)
{
    (void)err_set(e, ERR_CONFIG, "${%s} is %s", name,
                  empty ? "empty in the environment" : "not set in the environment");
    return err_hint(e, "set %s, for the service in " CONF_ENVIRONMENT "; for the text itself write $${%s}", name, name);
}

/* The variable whose name is at p, up to the brace. */
static int add_variable(const char *p, bool secret, struct buf *out, const char **ret_end, struct err *e)
{
    size_t n = env_name_length(p);
    if (!n || p[n] != '}')
        return bad_name(p, e);
    cleanup_free char *name = strndup(p, n);
    char *value = env_get(name);
    if (!value || !*value) {
        free(value);
        return not_set(name, value != NULL, e);
    }
    if (secret)
        env_hide(name);
    buf_add_str(out, value);
    secret_wipe(value);
    *ret_end = p + n + 1;
    return 0;
}

static int result_ok(const char *text, struct err *e)
{
    for (const char *p = text; *p; p++)
        if (((unsigned char)*p < ' ' && *p != '\t') || *p == 0x7f)
            return err_set(e, ERR_CONFIG, "a control character (%u) comes out of the environment", (unsigned char)*p);
    if (!conf_utf8_ok(text, strlen(text)))
        return err_set(e, ERR_CONFIG, "what comes out of the environment is not UTF-8 text");
    return 0;
}

int conf_expand(const char *text, bool secret, char **ret, struct err *e)
{
    cleanup_wiped_buf struct buf out = BUF_INIT;
    bool expanded = false;
    if (!strstr(text, "${"))
        return 0;
    (void)buf_reserve(&out, 1024); /* so that no copy of a secret is left behind by growing */
    for (const char *p = text; *p;) {
        if (!strncmp(p, "$${", 3)) {
            buf_add_str(&out, "${");
            p += 3;
        } else if (!strncmp(p, "${", 2)) {
            int r = add_variable(p + 2, secret, &out, &p, e);
            if (r < 0)
                return r;
            expanded = true;
        } else {
            buf_add(&out, p++, 1);
        }
    }
    int r = result_ok(buf_str(&out), e);
    if (r < 0)
        return r;
    *ret = util_strdup(buf_str(&out));
    return expanded ? CONF_EXPANDED : CONF_UNESCAPED;
}
