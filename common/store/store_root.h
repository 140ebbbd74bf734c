/* store_root.h - is a target's directory the one that it was? A disk that is not mounted leaves an
 * empty directory in its place, and what is written there is not on the disk. So the directory has
 * a small file in it, the marker, with a number; and the state directory remembers the number.
 * Where the marker is not, or another one is, nothing is read and nothing is written, until a
 * person says that the directory is meant (walsupctl adopt).
 *
 * Blocking; any thread, several at a time. */
#ifndef WALSUP_STORE_ROOT_H
#define WALSUP_STORE_ROOT_H

#include "common/base/err.h"

#define STORE_ROOT_MARKER "walsup-target"

struct store_root;

/** store_root_new(dir, name, state_dir, used): `name` is the target's. Copies what it needs,
 * touches no disk. used(state_dir, name): whether the state directory shows that something was
 * stored under that name before, by a version that knew no markers; may be NULL. Any thread. */
struct store_root *store_root_new(const char *dir, const char *name, const char *state_dir,
                                  bool (*used)(const char *state_dir, const char *name));
/** store_root_ref(r), store_root_unref(r): it goes with the last one who has it. NULL is fine. */
struct store_root *store_root_ref(struct store_root *r);
struct store_root *store_root_unref(struct store_root *r);
const char *store_root_dir(const struct store_root *r);
const char *store_root_target(const struct store_root *r);
/** store_root_look(r, writes, e): fine, or why not. writes: the directory and the marker are made, if nothing was ever
 * stored here; a directory that already holds replicas gets its marker. */
int store_root_look(struct store_root *r, bool writes, struct err *e);
/** store_root_adopt(r, e): the directory as it is now is the target's. */
int store_root_adopt(struct store_root *r, struct err *e);

#endif
