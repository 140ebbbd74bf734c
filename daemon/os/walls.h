/* walls.h - which file system a path lies on, by the list of mounts, so that the question itself cannot hang: what
 * keeps the workers apart (common/store/work.h). A symbolic link is not followed. Loop thread only. */
#ifndef WALSUP_WALLS_H
#define WALSUP_WALLS_H

#include <stdint.h>

/** wall_of_mount(path): the same number for all paths below one mount. */
uint64_t wall_of_mount(const char *path);
/** wall_of_own(): what lies in the state directory. */
#define WALL_OWN 1u

#endif
