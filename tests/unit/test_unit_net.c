#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "tests/unit/unit_harness.h"

static int begin(void **state)
{
    (void)state;
    (void)harness_begin();
    return 0;
}

struct row {
    const char *lines, *address;
    const char *denied; /* by the line with this value; NULL: it passes */
};

static void judge(const struct row *row, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct unit *u = harness_unit("walsupd.service", row[i].lines);
        const struct unit_line *l = NULL;
        bool admits = unit_admits(u, row[i].address, &l);
        if (admits != !row[i].denied)
            fail_msg("%s for %s: %s", row[i].lines, row[i].address,
                     admits ? "passes" : "is denied");
        assert_int_equal(!l, admits);
        if (l) {
            assert_string_equal(l->key, "IPAddressDeny");
            assert_string_equal(l->value, row[i].denied);
        }
        (void)unit_free(u);
    }
}

#define DENY(net) "IPAddressDeny=" net

static void prefixes_of_ipv4_end_at_their_bit(void **state)
{
    (void)state;
    static const struct row row[] = {
        {DENY("10.0.0.0/8"), "10.255.255.255:443", "10.0.0.0/8"},
        {DENY("10.0.0.0/8"), "11.0.0.0:443", NULL},
        {DENY("172.16.0.0/12"), "172.31.255.255", "172.16.0.0/12"},
        {DENY("172.16.0.0/12"), "172.32.0.0", NULL},
        {DENY("172.16.0.0/12"), "172.15.255.255", NULL},
        {DENY("192.0.2.128/25"), "192.0.2.128", "192.0.2.128/25"},
        {DENY("192.0.2.128/25"), "192.0.2.127", NULL},
        {DENY("192.0.2.4/31"), "192.0.2.5", "192.0.2.4/31"},
        {DENY("192.0.2.4/31"), "192.0.2.6", NULL},
        {DENY("192.0.2.77/25"), "192.0.2.1", "192.0.2.77/25"}, /* the rest does not count */
        {DENY("192.0.2.4/32"), "192.0.2.4", "192.0.2.4/32"},
        {DENY("192.0.2.4"), "192.0.2.4", "192.0.2.4"},
        {DENY("192.0.2.4"), "192.0.2.5", NULL},
        {DENY("0.0.0.0/0"), "203.0.113.9", "0.0.0.0/0"},
        {DENY("128.0.0.0/1"), "127.255.255.255", NULL},
        {DENY("128.0.0.0/1"), "128.0.0.0", "128.0.0.0/1"},
    };
    judge(row, ARRAY_LEN(row));
}

static void prefixes_of_ipv6_end_at_their_bit(void **state)
{
    (void)state;
    static const struct row row[] = {
        {DENY("2001:db8::/32"), "[2001:db8:ffff::1]:443", "2001:db8::/32"},
        {DENY("2001:db8::/32"), "[2001:db9::1]:443", NULL},
        {DENY("2001:db8::/47"), "[2001:db8:1::]:443", "2001:db8::/47"},
        {DENY("2001:db8::/47"), "[2001:db8:2::]:443", NULL},
        {DENY("2001:db8::/127"), "2001:db8::1", "2001:db8::/127"},
        {DENY("2001:db8::/127"), "2001:db8::2", NULL},
        {DENY("2001:db8::1"), "[2001:db8::1]", "2001:db8::1"},
        {DENY("2001:db8::1/128"), "2001:db8::1", "2001:db8::1/128"},
        {DENY("::/0"), "[2001:db8::1]:443", "::/0"},
        {DENY("fe80::/64"), "[fe80::1%eth0]:443", "fe80::/64"},
    };
    judge(row, ARRAY_LEN(row));
}

static void a_prefix_of_one_family_says_nothing_of_the_other(void **state)
{
    (void)state;
    static const struct row row[] = {
        {DENY("0.0.0.0/0"), "[2001:db8::1]:443", NULL},
        {DENY("::/0"), "192.0.2.1:443", NULL},
        {DENY("any"), "[2001:db8::1]:443", "any"},
        {DENY("any"), "192.0.2.1:443", "any"},
    };
    judge(row, ARRAY_LEN(row));
}

static void words_stand_for_networks_of_both_families(void **state)
{
    (void)state;
    static const struct row row[] = {
        {DENY("localhost"), "127.9.9.9:80", "localhost"},
        {DENY("localhost"), "128.0.0.1:80", NULL},
        {DENY("localhost"), "[::1]:80", "localhost"},
        {DENY("localhost"), "[::2]:80", NULL},
        {DENY("link-local"), "169.254.3.4:80", "link-local"},
        {DENY("link-local"), "169.253.3.4:80", NULL},
        {DENY("link-local"), "[fe80::3%2]:80", "link-local"},
        {DENY("link-local"), "[fe81::3]:80", NULL},
        {DENY("multicast"), "239.255.255.255:80", "multicast"},
        {DENY("multicast"), "240.0.0.0:80", NULL},
        {DENY("multicast"), "[ff02::1]:80", "multicast"},
    };
    judge(row, ARRAY_LEN(row));
}

static void what_is_allowed_passes_whatever_is_denied(void **state)
{
    (void)state;
    static const struct row row[] = {
        {"IPAddressAllow=192.0.2.0/24\nIPAddressDeny=192.0.2.1", "192.0.2.1:443", NULL},
        {"IPAddressDeny=any\nIPAddressAllow=10.0.0.0/8 2001:db8::/32", "10.1.2.3:443", NULL},
        {"IPAddressDeny=any\nIPAddressAllow=10.0.0.0/8 2001:db8::/32", "[2001:db8::9]:443", NULL},
        {"IPAddressDeny=any\nIPAddressAllow=10.0.0.0/8 2001:db8::/32", "192.0.2.1:443", "any"},
        {"IPAddressDeny=any\nIPAddressAllow=10.0.0.0/8\nIPAddressAllow=192.0.2.1", "10.1.2.3",
         NULL},
        {"IPAddressDeny=any\nIPAddressAllow=10.0.0.0/8\nIPAddressAllow=", "10.1.2.3", "any"},
        {"IPAddressDeny=10.0.0.0/8\nIPAddressDeny=192.0.2.1 any", "192.0.2.2", "192.0.2.1 any"},
        {"IPAddressDeny=any\nIPAddressDeny=", "192.0.2.2", NULL},
        {"", "192.0.2.2", NULL},
    };
    judge(row, ARRAY_LEN(row));
}

/* systemd ignores such words, with a line in its log */
static void what_is_not_a_network_denies_nothing(void **state)
{
    (void)state;
    static const struct row row[] = {
        {DENY("192.0.2.0/33"), "192.0.2.0", NULL},
        {DENY("2001:db8::/129"), "2001:db8::", NULL},
        {DENY("192.0.2.0/"), "192.0.2.0", NULL},
        {DENY("192.0.2.0/24x"), "192.0.2.0", NULL},
        {DENY("192.0.2.0/-1"), "192.0.2.0", NULL},
        {DENY("192.0.2.0/99999999999999999999"), "192.0.2.0", NULL},
        {DENY("192.0.2"), "192.0.2.0", NULL},
        {DENY("s3.example.com"), "192.0.2.0", NULL},
        {DENY("nonsense 192.0.2.0/24"), "192.0.2.1", "nonsense 192.0.2.0/24"},
        {DENY("any"), "s3.example.com:443", NULL}, /* is no address */
        {DENY("any"), "", NULL},
    };
    judge(row, ARRAY_LEN(row));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, harness_end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(prefixes_of_ipv4_end_at_their_bit),
        TEST(prefixes_of_ipv6_end_at_their_bit),
        TEST(a_prefix_of_one_family_says_nothing_of_the_other),
        TEST(words_stand_for_networks_of_both_families),
        TEST(what_is_allowed_passes_whatever_is_denied),
        TEST(what_is_not_a_network_denies_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
