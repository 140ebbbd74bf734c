/* unit_net.c - IPAddressAllow= and IPAddressDeny=, by the rules of systemd.resource-control(5): what is on the list of
 * those allowed passes, then what is on the list of those denied does not, and the rest passes. */
#include "ctl/unit.h"

#include <arpa/inet.h>
#include <ctype.h>

struct net {
    unsigned char byte[16];
    int family;
    unsigned bits; /* of the prefix */
};

static const struct {
    const char *word, *net[2];
} names[] = {{"any", {"0.0.0.0/0", "::/0"}},
             {"localhost", {"127.0.0.0/8", "::1/128"}},
             {"link-local", {"169.254.0.0/16", "fe80::/64"}},
             {"multicast", {"224.0.0.0/4", "ff00::/8"}}};

/* ADDRESS[/BITS] */
static bool parse_net(const char *text, struct net *ret)
{
    cleanup_free char *address = util_printf("%.*s", (int)strcspn(text, "/"), text);
    const char *slash = strchr(text, '/');
    ret->family = strchr(address, ':') ? AF_INET6 : AF_INET;
    unsigned max = ret->family == AF_INET ? 32 : 128;
    char *end = NULL;
    unsigned long bits = slash && isdigit((unsigned char)slash[1]) ? strtoul(slash + 1, &end, 10) : max;
    ret->bits = (unsigned)bits;
    return inet_pton(ret->family, address, ret->byte) == 1 && bits <= max && (!slash || (end && !*end));
}

static bool in_net(const struct net *a, const char *text)
{
    struct net n;
    if (!parse_net(text, &n) || n.family != a->family || memcmp(n.byte, a->byte, n.bits / 8) != 0)
        return false;
    unsigned rest = n.bits % 8;
    return !rest || !((n.byte[n.bits / 8] ^ a->byte[n.bits / 8]) >> (8 - rest));
}

static bool in_word(const struct net *a, const char *word)
{
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (!strcmp(word, names[i].word))
            return in_net(a, names[i].net[0]) || in_net(a, names[i].net[1]);
    return in_net(a, word);
}

static const struct unit_line *listed(const struct unit *u, const char *key, const struct net *a)
{
    for (const struct unit_line *l = NULL; (l = unit_next(u, key, l));) {
        const char *p = l->value;
        bool it = false;
        for (char *word; (p = unit_word(p, &word)); free(word))
            it = it || in_word(a, word);
        if (it)
            return l;
    }
    return NULL;
}

bool unit_admits(const struct unit *u, const char *address, const struct unit_line **ret_line)
{
    bool bracket = *address == '[';
    const char *colon = strchr(address, ':');
    size_t n = bracket                                  ? strcspn(address, "]") - 1
               : colon && !strchr(colon + 1, ':') ? (size_t)(colon - address)
                                                        : strlen(address);
    cleanup_free char *plain = util_printf("%.*s", (int)n, address + bracket);
    struct net a;
    plain[strcspn(plain, "%")] = '\0'; /* fe80::1%eth0 */
    if (!parse_net(plain, &a) || listed(u, "IPAddressAllow", &a))
        return true;
    const struct unit_line *l = listed(u, "IPAddressDeny", &a);
    if (l)
        *ret_line = l;
    return !l;
}
