/* completion.h - completion scripts for shells, made from the table of verbs and from what their --help
 * says of options: what is there can be completed, without a second list. */
#ifndef WALSUP_COMPLETION_H
#define WALSUP_COMPLETION_H

#include "common/base/buf.h"
#include "ctl/ctl.h"

/** completion_make(shell, verb, n, out): append the script for bash, zsh or fish; false: another shell. */
bool completion_make(const char *shell, const struct ctl_verb *verb, size_t n, struct buf *out);

#endif
