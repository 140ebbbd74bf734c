/* s3_hint.c - hints for a target that comes from a url on a command line: there is no section to write into. */
#include "common/store/s3_answer.h"

static void replace(char **text, const char *what, const char *with)
{
    const char *at = strstr(*text, what);
    char *new = at ? util_printf("%.*s%s%s", (int)(at - *text), *text, with, at + strlen(what)) : util_strdup(*text);
    free(*text);
    *text = new;
}

int s3_hint_for_url(const char *name, struct err *e)
{
    cleanup_free char *section = util_printf("[target %s]", name), *in_section = util_printf(" in %s", section);
    cleanup_free char *hint = util_strdup(e->hint);
    if (!strncmp(hint, "write access-key-id ", 20))
        return err_hint(e, "export WALSUP_ACCESS_KEY_ID and WALSUP_SECRET_ACCESS_KEY (LITESTREAM_* "
                           "and AWS_* work as well), or "
                           "append profile=NAME to the url for ~/.aws/credentials");
    if (!strstr(hint, section))
        return -(int)e->code;
    bool write = strstr(hint, "write ") != NULL;
    replace(&hint, "write ", "append ");
    replace(&hint, write ? in_section : section, write ? " to the url" : "the url");
    replace(&hint, "bucket = in the url", "the bucket in the url");
    while (strstr(hint, " = "))
        replace(&hint, " = ", "=");
    return err_hint(e, "%s", hint);
}
