/* words.h - a command line as one text: PROGRAM and its arguments, quoted as for a shell, but
 * nothing else of one. Pure. */
#ifndef WALSUP_WORDS_H
#define WALSUP_WORDS_H

#include "common/base/err.h"

/** words_split(text, ret, e): a NULL-ended list of at least one word; each and the list are
 * malloc'ed. White space separates words; '...' is taken as it is; in "..." a backslash protects "
 * and \, elsewhere any character. ERR_USAGE: a quote is not closed, or there is no word. */
int words_split(const char *text, char ***ret, struct err *e);
void words_free(char **list);

#endif
