#include "daemon/os/busfault.h"

#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

static _Thread_local volatile sig_atomic_t taken;
static long page_size;

/* mmap() is a bare system call. SQLite's later munmap() of the whole mapping takes this page with it. What is written
 * into it is seen by nobody. A fault of the memory itself, or at an address that was never mapped, ends the process as
 * before. */
static void on_bus(int signum, siginfo_t *info, void *context)
{
    (void)context;
    int saved = errno;
    char *page = (char *)((uintptr_t)info->si_addr & ~((uintptr_t)page_size - 1));
    if (info->si_code != BUS_ADRERR ||
        mmap(page, (size_t)page_size, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED) {
        (void)signal(signum, SIG_DFL);
        return; /* the same instruction faults again */
    }
    taken = 1;
    errno = saved;
}

int busfault_setup(struct err *e)
{
    page_size = sysconf(_SC_PAGESIZE);
    struct sigaction a = {.sa_sigaction = on_bus, .sa_flags = SA_SIGINFO};
    (void)sigemptyset(&a.sa_mask);
    return sigaction(SIGBUS, &a, NULL) < 0 ? err_sys(e, errno, "sigaction") : 0;
}

bool busfault_taken(void)
{
    bool was = taken;
    taken = 0;
    return was;
}
