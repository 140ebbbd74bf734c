#include "ctl/completion.h"

#include <ctype.h>

#include "common/format/conf.h"

/* An option as --help has it: "  -o, --output FILE         file to create". */
struct opt {
    char shortname; /* 0: none */
    char name[32], value[16]; /* value "": it takes none */
    char text[64];
};

static const char common_more[] = "  --json                    machine-readable output\n"
                                  "  -c, --config FILE         configuration\n"
                                  "  --socket PATH             control socket\n"
                                  "  --help                    what the verb does\n";

/* a line in brackets is a pattern, which no verb takes */
static const char dbs[] = "walsupctl list 2>/dev/null | sed -n '2,${/^\\[/!s/ .*//p;}'";
static const char targets[] = "walsupctl config 2>/dev/null | sed -n 's/^\\[target \\(.*\\)\\].*/\\1/p'";

static size_t word(char *to, size_t size, const char *from)
{
    size_t n = strcspn(from, " \n");
    (void)snprintf(to, size, "%.*s", (int)n, from);
    return n;
}

/* what has a meaning in one of the shells is left out of descriptions */
static void plain(char *to, size_t size, const char *from, size_t n)
{
    size_t k = 0;
    for (size_t i = 0; i < n && k + 1 < size; i++)
        if (from[i] == ':' && i + 1 < n && from[i + 1] == ' ')
            to[k++] = ',';
        else if (!strchr("'\"`$\\[]:;", from[i]))
            to[k++] = from[i];
    to[k] = '\0';
}

/* The next option of the text at *at; false: there is none. */
static bool next_opt(const char **at, struct opt *ret)
{
    for (const char *line = *at; *line; line += strcspn(line, "\n") + (strchr(line, '\n') != NULL)) {
        const char *p = line + 2;
        if (strncmp(line, "  -", 3) != 0)
            continue;
        *ret = (struct opt){0};
        if (p[1] != '-') {
            ret->shortname = p[1];
            p += strlen("-o, ");
        }
        p += 2;
        p += word(ret->name, sizeof ret->name, p);
        if (p[0] == ' ' && isupper((unsigned char)p[1]))
            p += 1 + word(ret->value, sizeof ret->value, p + 1);
        p += strspn(p, " ");
        size_t n = strcspn(p, "\n");
        plain(ret->text, sizeof ret->text, p, n);
        *at = p + n;
        return true;
    }
    return false;
}

/* What --set takes: the keys of [db], each with the default that it has in [walsup]. */
static char *settings(void)
{
    cleanup_buf struct buf all = BUF_INIT, out = BUF_INIT;
    conf_defaults(&all);
    const char *p = strstr(buf_str(&all), "\n[db ");
    while (p && (p = strchr(p + 1, '\n')) && p[1] == ';') {
        cleanup_free char *key = util_strndup(p + 3, strcspn(p + 3, ":"));
        cleanup_free char *line = util_printf("\n%s = ", key);
        const char *dflt = strstr(buf_str(&all), line);
        if (dflt)
            buf_printf(&out, "%s%s=%.*s", out.len ? " " : "", key,
                       (int)strcspn(dflt + strlen(line), "\n"), dflt + strlen(line));
    }
    return util_strdup(buf_str(&out));
}

enum operand { NOTHING, A_DB, A_FILE, A_VERB };

static enum operand operand_of(const struct ctl_verb *v)
{
    return strstr(v->args, "DB")     ? A_DB
           : strstr(v->args, "FILE") ? A_FILE
           : strstr(v->args, "VERB") ? A_VERB
                                     : NOTHING;
}

/* ---- bash --------------------------------------------------------------------------------------- */

static void bash_opts(const char *more, struct buf *out)
{
    struct opt o;
    while (next_opt(&more, &o)) {
        if (o.shortname)
            buf_printf(out, " -%c", o.shortname);
        buf_printf(out, " --%s", o.name);
    }
}

/* each option that takes a value, of whichever verb */
static void bash_values(const char *more, struct buf *out)
{
    struct opt o;
    while (next_opt(&more, &o)) {
        cleanup_free char *said = util_printf("--%s) ", o.name);
        if (!*o.value || strstr(buf_str(out), said))
            continue;
        buf_add_str(out, "    ");
        if (o.shortname)
            buf_printf(out, "-%c|", o.shortname);
        buf_printf(out, "--%s) ", o.name);
        if (!strcmp(o.value, "FILE") || !strcmp(o.value, "PATH"))
            buf_add_str(out, "what=-f ;;\n");
        else if (!strcmp(o.name, "target"))
            buf_printf(out, "words=$(%s) ;;\n", targets);
        else if (!strcmp(o.name, "set")) {
            cleanup_free char *keys = settings();
            buf_printf(out, "words='%s' ;;\n", keys);
        } else if (!strcmp(o.value, "HOW"))
            buf_add_str(out, "words='quick full none' ;;\n");
        else if (!strcmp(o.value, "SHELL"))
            buf_add_str(out, "words='bash zsh fish' ;;\n");
        else
            buf_add_str(out, "return ;;\n");
    }
}

static void bash(const struct ctl_verb *verb, size_t n, struct buf *out)
{
    buf_add_str(out, "# walsupctl(1) for bash, made by: walsupctl help --completion bash\n"
                  "_walsupctl() {\n"
                  "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} verb= what= words= i\n"
                  "    for ((i = 1; i < COMP_CWORD; i++)); do\n"
                  "        case ${COMP_WORDS[i]} in\n"
                  "        -c|--config|--socket) ((i++)) ;;\n"
                  "        -*) ;;\n"
                  "        *) verb=${COMP_WORDS[i]}; break ;;\n"
                  "        esac\n"
                  "    done\n"
                  "    COMPREPLY=()\n"
                  "    case $prev in\n");
    bash_values(common_more, out);
    for (size_t i = 0; i < n; i++)
        bash_values(verb[i].more, out);
    buf_add_str(out, "    *)\n        local verbs='");
    for (size_t i = 0; i < n; i++)
        buf_printf(out, "%s%s", i ? " " : "", verb[i].name);
    buf_add_str(out, "' options='");
    bash_opts(common_more, out);
    buf_add_str(out, "'\n        case $verb in\n        '') words=\"$verbs $options\" ;;\n");
    for (size_t i = 0; i < n; i++) {
        enum operand x = operand_of(&verb[i]);
        buf_printf(out, "        %s)\n            options+='", verb[i].name);
        bash_opts(verb[i].more, out);
        buf_add_str(out, "'\n            [[ $cur == -* ]] && words=$options || ");
        if (x == A_DB)
            buf_printf(out, "words=$(%s) ;;\n", dbs);
        else
            buf_printf(out, "%s ;;\n", x == A_FILE ? "what=-f" : x == A_VERB ? "words=$verbs" : "return");
    }
    buf_add_str(out, "        esac ;;\n"
                  "    esac\n"
                  "    [[ $what ]] && mapfile -t COMPREPLY < <(compgen $what -- \"$cur\")\n"
                  /* not compgen -W, which would run what a database may be called */
                  "    local list\n"
                  "    read -r -d '' -a list <<< \"$words\"\n"
                  "    for i in \"${list[@]}\"; do\n"
                  "        [[ $i == \"$cur\"* ]] && COMPREPLY+=(\"$(printf %q \"$i\")\")\n"
                  "    done\n"
                  "    return 0\n"
                  "}\n"
                  "complete -F _walsupctl walsupctl\n");
}

/* ---- zsh ---------------------------------------------------------------------------------------- */

static void zsh_opts(const char *more, struct buf *out)
{
    struct opt o;
    cleanup_free char *keys = settings();
    cleanup_free char *set = util_printf("(%s)", keys);
    while (next_opt(&more, &o)) {
        const char *then = !strcmp(o.value, "FILE") || !strcmp(o.value, "PATH") ? "_files"
                           : !strcmp(o.name, "target")                        ? "_walsupctl_targets"
                           : !strcmp(o.name, "set")                           ? set
                           : !strcmp(o.value, "HOW")                          ? "(quick full none)"
                           : !strcmp(o.value, "SHELL")                        ? "(bash zsh fish)"
                                                                              : " ";
        buf_add_str(out, " \\\n            ");
        if (o.shortname)
            buf_printf(out, "'(-%c --%s)'{-%c,--%s}", o.shortname, o.name, o.shortname, o.name);
        else
            buf_printf(out, "--%s", o.name);
        buf_printf(out, "'[%s]", o.text);
        if (*o.value)
            buf_printf(out, ":%s:%s", o.value, then);
        buf_add_str(out, "'");
    }
}

static void zsh(const struct ctl_verb *verb, size_t n, struct buf *out)
{
    buf_add_str(out, "#compdef walsupctl\n# made by: walsupctl help --completion zsh\n");
    buf_printf(out, "_walsupctl_dbs() { local -a w; w=(${(f)\"$(%s)\"}); compadd -a w }\n", dbs);
    buf_printf(out, "_walsupctl_targets() { local -a w; w=(${(f)\"$(%s)\"}); compadd -a w }\n", targets);
    buf_add_str(out, "_walsupctl_verbs() {\n    local -a verbs\n    verbs=(");
    for (size_t i = 0; i < n; i++) {
        char text[96];
        plain(text, sizeof text, verb[i].help, strlen(verb[i].help));
        buf_printf(out, "\n        '%s:%s'", verb[i].name, text);
    }
    buf_add_str(out, ")\n    _describe verb verbs\n}\n"
                  "_walsupctl() {\n    local curcontext=$curcontext state\n    _arguments -C");
    zsh_opts(common_more, out);
    buf_add_str(out, " \\\n            '1:verb:_walsupctl_verbs' '*::argument:->verb'\n"
                  "    [[ $state == verb ]] || return\n    case $words[1] in\n");
    for (size_t i = 0; i < n; i++) {
        enum operand x = operand_of(&verb[i]);
        buf_printf(out, "    %s)\n        _arguments", verb[i].name);
        zsh_opts(common_more, out);
        zsh_opts(verb[i].more, out);
        if (x != NOTHING)
            buf_printf(out, " \\\n            '1:%s'", x == A_DB     ? "database:_walsupctl_dbs"
                                                       : x == A_FILE ? "file:_files"
                                                                     : "verb:_walsupctl_verbs");
        buf_add_str(out, " ;;\n");
    }
    buf_add_str(out, "    esac\n}\n_walsupctl \"$@\"\n");
}

/* ---- fish --------------------------------------------------------------------------------------- */

static void fish_opts(const char *verb, const char *more, struct buf *out)
{
    struct opt o;
    while (next_opt(&more, &o)) {
        buf_add_str(out, "complete -c walsupctl");
        if (verb)
            buf_printf(out, " -n '__fish_seen_subcommand_from %s'", verb);
        if (o.shortname)
            buf_printf(out, " -s %c", o.shortname);
        buf_printf(out, " -l %s", o.name);
        if (!strcmp(o.value, "FILE") || !strcmp(o.value, "PATH"))
            buf_add_str(out, " -rF");
        else if (!strcmp(o.name, "target"))
            buf_printf(out, " -x -a \"(%s)\"", "walsupctl config 2>/dev/null | string match -rg '^\\[target (.*)\\]'");
        else if (!strcmp(o.name, "set")) {
            cleanup_free char *keys = settings();
            buf_printf(out, " -x -a '%s'", keys);
        } else if (*o.value)
            buf_printf(out, " -x%s", !strcmp(o.value, "HOW")     ? " -a 'quick full none'"
                                     : !strcmp(o.value, "SHELL") ? " -a 'bash zsh fish'"
                                                                 : "");
        buf_printf(out, " -d '%s'\n", o.text);
    }
}

static void fish(const struct ctl_verb *verb, size_t n, struct buf *out)
{
    buf_add_str(out, "# walsupctl(1) for fish, made by: walsupctl help --completion fish\n"
                  "complete -c walsupctl -f\n");
    fish_opts(NULL, common_more, out);
    for (size_t i = 0; i < n; i++) {
        char text[96];
        enum operand x = operand_of(&verb[i]);
        plain(text, sizeof text, verb[i].help, strlen(verb[i].help));
        buf_printf(out, "complete -c walsupctl -n __fish_use_subcommand -a %s -d '%s'\n", verb[i].name, text);
        if (x == A_FILE)
            buf_printf(out, "complete -c walsupctl -n '__fish_seen_subcommand_from %s' -F\n", verb[i].name);
        if (x == A_DB)
            buf_printf(out, "complete -c walsupctl -n '__fish_seen_subcommand_from %s' -a \"(walsupctl list "
                            "2>/dev/null | string match -rg '^([^\\s\\[]\\S*)' | tail -n +2)\"\n", verb[i].name);
        fish_opts(verb[i].name, verb[i].more, out);
    }
}

bool completion_make(const char *shell, const struct ctl_verb *verb, size_t n, struct buf *out)
{
    static const struct {
        const char *name;
        void (*make)(const struct ctl_verb *verb, size_t n, struct buf *out);
    } known[] = {{"bash", bash}, {"zsh", zsh}, {"fish", fish}};
    for (size_t i = 0; i < ARRAY_LEN(known); i++)
        if (!strcmp(shell, known[i].name)) {
            known[i].make(verb, n, out);
            return true;
        }
    return false;
}
