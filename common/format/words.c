#include "common/format/words.h"

#include <ctype.h>

#include "common/base/buf.h"

void words_free(char **list)
{
    for (char **w = list; w && *w; w++)
        free(*w);
    free(list);
}

/* Up to the closing quote, which is returned; NULL: there is none. */
static const char *take_quoted(const char *p, struct buf *word)
{
    for (char quote = *p++; *p; p++) {
        if (*p == quote)
            return p;
        if (quote == '"' && *p == '\\' && (p[1] == '"' || p[1] == '\\'))
            p++;
        buf_add(word, p, 1);
    }
    return NULL;
}

/* The first character that does not belong to the word; NULL: e says why there is none. */
static const char *take_word(const char *p, struct buf *word, struct err *e)
{
    for (; *p && !isspace((unsigned char)*p); p++) {
        const char *start = p;
        if (*p == '\'' || *p == '"') {
            p = take_quoted(p, word);
            if (p)
                continue;
            (void)err_set(e, ERR_USAGE, "the quote before '%.40s' is not closed", start + 1);
            (void)err_hint(e, "close it, or write \\%c for the character itself", *start);
            return NULL;
        }
        if (*p == '\\' && !p[1]) {
            (void)err_set(e, ERR_USAGE, "there is nothing after the backslash at the end");
            return NULL;
        }
        if (*p == '\\')
            p++;
        buf_add(word, p, 1);
    }
    return p;
}

int words_split(const char *text, char ***ret, struct err *e)
{
    char **list = util_zalloc(sizeof *list);
    size_t n = 0;
    for (const char *p = text + strspn(text, " \t\n"); *p; p += strspn(p, " \t\n")) {
        cleanup_buf struct buf word = BUF_INIT;
        p = take_word(p, &word, e);
        if (!p) {
            words_free(list);
            return -(int)ERR_USAGE;
        }
        list = util_realloc(list, (n + 2) * sizeof *list);
        list[n++] = util_strdup(buf_str(&word));
        list[n] = NULL;
    }
    if (!n) {
        words_free(list);
        return err_set(e, ERR_USAGE, "there is no program in it");
    }
    *ret = list;
    return 0;
}
