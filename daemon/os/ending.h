/* ending.h - the end of the process does not wait for what hangs: a call into a file system that is away cannot be ended,
 * and everything that is on a disk can be left at any moment, as by kill -9. */
#ifndef WALSUP_ENDING_H
#define WALSUP_ENDING_H

/** ending_begin(status): from now on ending_moved() is called, or the process ends with this exit status. Once. Loop
 * thread. */
void ending_begin(int status);
/** ending_moved(): something has been closed. Any thread, also before the beginning. */
void ending_moved(void);

#endif
