/* name.h - names of databases that a pattern found: from their path, and back. Pure.
 *
 * A name is made from a template, "{section}/{path}" unless configured; {path} is the path below the
 * pattern's fixed directory, encoded so that it is a plain path in a bucket, in a directory, in a
 * log line and on a command line, whatever the file is called:
 *
 *   - A-Z a-z 0-9 . _ - stay, / stays between components, every other byte becomes %XX;
 *   - a component never begins with a dot (%2E), and never is one that the replica's layout uses
 *     (ltx, generations, 0000 to 0009): its first character is encoded then;
 *   - a component of more than 200 bytes is cut; the piece before the cut ends with a bare %.
 *
 * Every path has one name and every name one path. */
#ifndef WALSUP_NAME_H
#define WALSUP_NAME_H

#include "common/base/buf.h"
#include "common/base/err.h"

#define NAME_PIECE_BYTES 200 /* of one component of a name */
#define NAME_BYTES 800       /* of a name: a key in a bucket has 1024 bytes, prefix and file included */
#define NAME_TEMPLATE "{section}/{path}"

/** name_encode(rel, out), name_decode(text, out): path to name and back; what name_encode would not
 * write is refused (false), and out is then unchanged. */
void name_encode(const char *rel, struct buf *out);
bool name_decode(const char *text, struct buf *out);

/** name_check(template, e): ERR_CONFIG unless it is a plain relative path in which {path} stands once,
 * alone between slashes. */
int name_check(const char *tmpl, struct err *e);
/** name_make(template, section, rel): malloc'ed. name_split(template, section, name): rel, malloc'ed,
 * NULL if no path has this name under the template. */
char *name_make(const char *tmpl, const char *section, const char *rel);
char *name_split(const char *tmpl, const char *section, const char *name);
/** name_prefix(template, section): what all its names begin with, without the slash; malloc'ed, may be
 * empty. */
char *name_prefix(const char *tmpl, const char *section);

/** name_dir(name): one directory entry for any name, malloc'ed; a name without a slash is its own. Two
 * names never share one. name_of_dir(dir): back; NULL if it is too long to tell. */
char *name_dir(const char *name);
char *name_of_dir(const char *dir);

#endif
