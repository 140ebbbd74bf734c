#include "common/format/proto.h"

#define MAX_DEPTH 32u

/* jansson recurses for every level, and its own limit is far above what any message needs; seen
 * before it parses, counted outside strings */
static bool too_deep(const uint8_t *p, size_t n)
{
    unsigned depth = 0;
    bool string = false;
    for (size_t i = 0; i < n; i++) {
        uint8_t c = p[i];
        if (string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                string = false;
        } else if (c == '"') {
            string = true;
        } else if (c == '{' || c == '[') {
            if (++depth > MAX_DEPTH)
                return true;
        } else if ((c == '}' || c == ']') && depth) {
            depth--;
        }
    }
    return false;
}

static int too_long(size_t max, struct err *e)
{
    return err_set(e, ERR_CORRUPT, "control message is longer than %zu bytes", max);
}

int proto_next(struct buf *b, size_t max, json_t **ret, struct err *e)
{
    const uint8_t *nul = b->len ? memchr(b->p, '\0', MIN(b->len, max + 1)) : NULL;
    if (!nul)
        return b->len > max ? too_long(max, e) : 1;
    size_t n = (size_t)(nul - b->p);
    if (too_deep(b->p, n))
        return err_set(e, ERR_CORRUPT, "control message is nested deeper than %u levels",
                       MAX_DEPTH);
    json_error_t je;
    json_t *msg = json_loadb((const char *)b->p, n, JSON_REJECT_DUPLICATES, &je);
    if (!msg)
        return err_set(e, ERR_CORRUPT, "control message is not JSON: %s at byte %d", je.text,
                       je.position);
    if (!json_is_object(msg)) {
        json_decref(msg);
        return err_set(e, ERR_CORRUPT, "control message is not a JSON object");
    }
    buf_consume(b, n + 1);
    *ret = msg;
    return 0;
}

int proto_call_parse(json_t *msg, struct proto_call *ret, struct err *e)
{
    const char *method = NULL;
    json_t *parameters = NULL;
    int more = 0;
    json_error_t je;
    if (json_unpack_ex(msg, &je, JSON_STRICT, "{s:s, s?o, s?b}", "method", &method, "parameters",
                       &parameters, "more", &more) < 0)
        return err_set(e, ERR_USAGE, "control call has a wrong form: %s", je.text);
    if (parameters && !json_is_object(parameters))
        return err_set(e, ERR_USAGE, "control call has a wrong form: parameters is not an object");
    *ret = (struct proto_call){.method = util_strdup(method), .more = more != 0};
    ret->parameters = parameters ? json_incref(parameters) : json_object();
    return 0;
}

void proto_call_done(struct proto_call *c)
{
    free(c->method);
    json_decref(c->parameters);
    *c = (struct proto_call){0};
}

static int add_text(const char *p, size_t n, void *arg)
{
    buf_add(arg, p, n);
    return 0;
}

void proto_add(struct buf *b, json_t *msg)
{
    if (json_dump_callback(msg, add_text, b, JSON_COMPACT) < 0)
        b->failed = true;
    buf_add(b, "", 1);
    json_decref(msg);
}

json_t *proto_make_call(const char *method, json_t *parameters, bool more)
{
    cleanup_free char *name = util_printf("%s.%s", PROTO_INTERFACE, method);
    json_t *msg = json_pack("{s:s, s:o}", "method", name, "parameters",
                            parameters ? parameters : json_object());
    if (more)
        (void)json_object_set_new(msg, "more", json_true());
    return msg;
}

json_t *proto_make_reply(json_t *parameters, bool continues)
{
    json_t *msg = json_pack("{s:o}", "parameters", parameters ? parameters : json_object());
    if (continues)
        (void)json_object_set_new(msg, "continues", json_true());
    return msg;
}

/* a cut message may end within a character, which JSON cannot hold */
static json_t *text(const char *s)
{
    json_t *j = json_string(s);
    cleanup_free char *copy = j ? NULL : util_strdup(s);
    for (char *p = copy; p && *p; p++)
        if ((unsigned char)*p >= 0x80)
            *p = '?';
    return j ? j : json_string(copy);
}

json_t *proto_make_error(const struct err *e)
{
    return json_pack("{s:s, s:{s:s, s:o, s:o}}", "error", PROTO_INTERFACE ".Error", "parameters",
                     "code", err_name(e->code), "message", text(e->msg), "hint", text(e->hint));
}

static enum err_code code_by_name(const char *name)
{
    static const enum err_code all[] = {
#define PROTO_CODE(code, exit_status, name) code,
        ERR_TABLE(PROTO_CODE)
#undef PROTO_CODE
    };
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        if (all[i] != ERR_OK && !strcmp(err_name(all[i]), name))
            return all[i];
    return ERR_INTERNAL;
}

static int parse_error(const char *name, json_t *parameters, struct err *e)
{
    const char *code = "internal", *message = NULL, *hint = "";
    if (!strcmp(name, PROTO_INTERFACE ".Error") && parameters)
        (void)json_unpack(parameters, "{s?s, s?s, s?s}", "code", &code, "message", &message, "hint",
                          &hint);
    if (!message) {
        (void)err_set(e, ERR_INTERNAL, "the daemon answered with %s", name);
        if (!strncmp(name, "org.varlink.service.", 20))
            return err_hint(e, "walsupctl and walsupd are of different versions: restart walsupd");
        return -ERR_INTERNAL;
    }
    int rc = err_set(e, code_by_name(code), "%s", message);
    return *hint ? err_hint(e, "%s", hint) : rc;
}

int proto_reply_parse(json_t *msg, json_t **ret_parameters, bool *ret_continues, struct err *e)
{
    const char *error = NULL;
    json_t *parameters = NULL;
    int continues = 0;
    json_error_t je;
    struct err own = {0};
    e = e ? e : &own;
    if (json_unpack_ex(msg, &je, 0, "{s?s, s?o, s?b}", "error", &error, "parameters", &parameters,
                       "continues", &continues) < 0)
        return err_set(e, ERR_CORRUPT, "the daemon's answer has a wrong form: %s", je.text);
    if (parameters && !json_is_object(parameters))
        return err_set(e, ERR_CORRUPT,
                       "the daemon's answer has a wrong form: parameters is not an object");
    if (error)
        return parse_error(error, parameters, e);
    *ret_parameters = parameters ? json_incref(parameters) : json_object();
    if (ret_continues)
        *ret_continues = continues != 0;
    return 0;
}

json_t *proto_text(const char *s)
{
    json_t *j = json_string(s);
    cleanup_free char *plain = j ? NULL : util_strdup(s);
    return j ? j : json_string(util_plain(plain));
}
