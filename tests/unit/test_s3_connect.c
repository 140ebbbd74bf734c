/* A name with several addresses, of which some swallow connection requests, as a host does that is
 * down. What names mean is decided here: getaddrinfo below stands in front of libc's. */
#include "tests/unit/s3_harness.h"

#include <dlfcn.h>
#include <netdb.h>

#define CONNECT_MS 2400
#define FULL 8

static const char *const dead_then_alive[] = {"127.0.0.7", "127.0.0.1", NULL};
static const char *const two_dead_then_alive[] = {"127.0.0.7", "127.0.0.8", "127.0.0.1", NULL};
static const char *const only_alive[] = {"127.0.0.1", NULL};
static const char *const only_dead[] = {"127.0.0.7", NULL};
static const char *const *addresses;

typedef int (*getaddrinfo_fn)(const char *, const char *, const struct addrinfo *,
                              struct addrinfo **);

int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints,
                struct addrinfo **ret)
{
    union {
        void *p;
        getaddrinfo_fn fn;
    } real = {dlsym(RTLD_NEXT, "getaddrinfo")};
    if (!name || strcmp(name, "store.test") != 0)
        return real.fn(name, service, hints, ret);
    struct addrinfo **at = ret;
    for (size_t i = 0; addresses[i]; i++) {
        if (real.fn(addresses[i], service, hints, at))
            return EAI_FAIL;
        while (*at)
            at = &(*at)->ai_next;
    }
    return 0;
}

/* a listener whose queue is full: the kernel drops what else asks for a connection */
struct dead {
    int listener, waiting[FULL];
};

static struct dead bury(const char *address)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)plain.port)};
    struct dead d = {.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    assert_int_equal(inet_pton(AF_INET, address, &a.sin_addr), 1);
    assert_int_equal(bind(d.listener, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(d.listener, 0), 0);
    for (size_t i = 0; i < FULL; i++) {
        d.waiting[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        (void)connect(d.waiting[i], (struct sockaddr *)&a, sizeof a);
    }
    return d;
}

static void dig_up(struct dead *d)
{
    for (size_t i = 0; i < FULL; i++)
        (void)close(d->waiting[i]);
    (void)close(d->listener);
}

/* the outcome of one put to store.test, and how long it took */
static struct err put_to(struct fix *f, const char *const *where, uint64_t *ret_ms)
{
    struct dead a = bury("127.0.0.7"), b = bury("127.0.0.8");
    cleanup_free char *endpoint = util_printf("http://store.test:%d", plain.port);
    addresses = where;
    set(&f->t.endpoint, endpoint);
    reopen(f);
    uint64_t start = clk_mono_ms();
    struct err e = put(f, "k", "x", 0);
    *ret_ms = clk_mono_ms() - start;
    dig_up(&a);
    dig_up(&b);
    return e;
}

static void the_first_address_is_dead_the_second_is_used(void **state)
{
    uint64_t ms;
    ok(put_to(*state, dead_then_alive, &ms));
    assert_true(ledger_says_stored("p/q/k"));
    assert_in_range(ms, CONNECT_MS / 4, CONNECT_MS);
}

static void two_addresses_are_dead_the_third_is_used(void **state)
{
    uint64_t ms;
    ok(put_to(*state, two_dead_then_alive, &ms));
    assert_true(ledger_says_stored("p/q/k"));
    assert_in_range(ms, CONNECT_MS / 2, CONNECT_MS);
}

static void control_an_address_that_works_is_used_at_once(void **state)
{
    uint64_t ms;
    ok(put_to(*state, only_alive, &ms));
    assert_true(ms < CONNECT_MS / 4);
}

static void control_the_dead_address_is_dead(void **state)
{
    uint64_t ms;
    failed(put_to(*state, only_dead, &ms), ERR_TIMEOUT, "no connection to store.test", "");
    assert_false(ledger_says_stored("p/q/k"));
}

int main(void)
{
    (void)setenv("WALSUP_TEST_S3_CONNECT_MS", "2400", 1);
    const struct CMUnitTest tests[] = {
        T(the_first_address_is_dead_the_second_is_used),
        T(two_addresses_are_dead_the_third_is_used),
        T(control_an_address_that_works_is_used_at_once),
        T(control_the_dead_address_is_dead),
    };
    return cmocka_run_group_tests(tests, start_servers, end_servers);
}
