/* walsupctl: shows, steers and restores. The verbs are this table; each is a cmd_*.c. */
#include "ctl/ctl.h"

#include <locale.h>

#include "common/format/near.h"
#include "common/store/cred.h"
#include "ctl/completion.h"
#include "ctl/out.h"

static int cmd_help(struct ctl *c);

static const struct ctl_verb verb[] = {
    {"status", "[DB]", "show what is replicated, how far behind, and what is wrong",
     "  --all                     show every database, even if there are very many\n"
     "  --watch                   refresh until interrupted; when piped, print a line\n"
     "                            for each change\n"
     "  --interval TIME           how often --watch looks (2s)\n"
     "  --states                  explain each state and what to do about it; needs no\n"
     "                            daemon\n"
     "  --man                     print these states as a table for walsupctl(1)\n\n"
     "Exit status: 0 healthy, 1 degraded, 2 failed or not running.\n", cmd_status},
    {"list", "", "list the configured databases, with or without the daemon", "", cmd_list},
    {"metrics", "", "print what Prometheus would fetch from the daemon",
     "  --list                    every metric there is, and what it means\n"
     "  --man                     the same as the table of walsupd(8)\n", cmd_metrics},
    {"restore", "DB [-o FILE]", "bring a database back from a replica, checked",
     "DB is a name or a path from the configuration. A file that exists is not\ntouched.\n\n"
     "  -o, --output FILE         file to create (the database's own path)\n"
     "  --target NAME             target to restore from (the most up to date)\n"
     "  --url URL                 restore from s3://BUCKET/PATH?endpoint=https://HOST\n"
     "                            or file:///PATH, without configuration; needs -o.\n"
     "                            PATH is the replica's, with the database's name\n"
     "  --txid TXID               up to this transaction, in hexadecimal (the latest)\n"
     "  --timestamp TIME          as it was then: 2026-11-24T10:00:00Z, or local time\n"
     "                            '2026-11-24 10:00', 'yesterday 18:00', '2 hours ago'\n"
     "  --generation GENERATION   of a replica of Litestream v0.3 (the newest)\n"
     "  --dry-run                 say what would be fetched\n"
     "  --force                   replace an existing file that nobody uses\n"
     "  --force-in-use            replace it even if a process has it open; what\n"
     "                            that process commits afterwards is lost\n"
     "  --if-db-not-exists        do nothing, successfully, if the file exists\n"
     "  --if-replica-exists       do nothing, successfully, if the replica is empty\n"
     "  --integrity-check HOW     quick, full or none (quick)\n"
     "  --parallel N              requests at the same time, 1 to 256\n"
     "  --no-resume               start over, and leave no partial file to resume\n"
     "  --follow                  keep the file up to date, for readers, until stopped\n"
     "  --follow-interval TIME    how often it looks for news (1s)\n", cmd_restore},
    {"points", "DB", "list what a database can be restored to",
     "Times are those of the commits, in local time; what Litestream v0.3 wrote has\n"
     "those of its objects.\n\n"
     "  --limit N                 the newest N points, 0 for all (20)\n"
     "  --target NAME             of this target (the most up to date)\n"
     "  --url URL                 as for restore\n"
     "  --generation GENERATION   of a replica of Litestream v0.3\n", cmd_points},
    {"verify", "DB", "prove a replica: each object, the chain, the source's pages",
     "Fetches everything, checks it, and compares what it makes with the checksums\n"
     "that were recorded and with the page map of walsupd. Restores and writes\n"
     "nothing; the database is not opened.\n\n"
     "  --target NAME             the replica in this target only (all of them)\n"
     "  --url URL                 as for restore\n"
     "  --txid TXID               only what leads to this transaction\n"
     "  --all                     list every object, not only what is wrong\n\n"
     "Exit status: 0 proven, 1 something is wrong but the latest state restores, 2 the\n"
     "latest state is not safe; others are errors.\n", cmd_verify},
    {"sync", "[DB] [--wait]", "replicate what is committed now, not at the next interval",
     "  --wait                    return when everything that was committed before is\n"
     "                            in every replica\n"
     "  --timeout TIME            how long to wait (60s)\n", cmd_sync},
    {"snapshot", "DB", "upload the whole database now, beside the schedule",
     "Returns when every replica has it. A restore of the latest state then begins\n"
     "there.\n\n"
     "  --target NAME             to this target only\n", cmd_snapshot},
    {"reconcile", "[DB]", "compare what the daemon knows of replicas with the buckets",
     "Lists the replicas, corrects the inventory, and makes a new snapshot where files\n"
     "are missing. Without DB: of every database.\n\n"
     "  --target NAME             of this target only\n"
     "  --trust-clock             the clock was set forward and is right: files may\n"
     "                            grow old by it\n", cmd_reconcile},
    {"adopt", "TARGET", "accept a directory as the one a target stores in",
     "walsupd knows the directory of a target by a file in it, walsup-target. Where\n"
     "that is missing, as when the disk is not mounted, nothing is stored. If the\n"
     "directory was emptied, replaced or moved on purpose, adopt accepts it as it is.\n",
     cmd_adopt},
    {"takeover", "DB | --all", "continue replicating where another writer was found",
     "For a replica in the state fenced. Stop the other writer first: if it\n"
     "continues, it is fenced in turn. A new history begins behind what is there, with\n"
     "the whole database; what the other one wrote stays, and can be restored.\n\n"
     "  --all                     every database with a replica in that state\n"
     "  --target NAME             of this target only\n", cmd_takeover},
    {"pause", "DB | --all [--for TIME]", "leave a database alone until resume, even across restarts",
     "walsupd captures what is committed and closes the database; what is captured is\n"
     "still uploaded. Returns when the database is closed. Later commits are not\n"
     "replicated until it is resumed; resume captures what they changed.\n\n"
     "  --all                     every database\n"
     "  --for TIME                resume by itself after this time, such as 10m\n"
     "  --reason TEXT             for status and the log, at most 200 bytes\n", cmd_pause},
    {"resume", "DB | --all", "continue with a database that was paused",
     "  --all                     every database\n", cmd_resume},
    {"add", "FILE [--target NAME]", "replicate one more database, from now on",
     "Writes a file of its own into the directory that 'include' names, after the\n"
     "whole configuration with it was found right; reloads, and returns when it is\n"
     "replicated, or says what is wrong.\n\n"
     "  --name NAME               what it is called (as the file)\n"
     "  --target NAME             where to; once for each (the only one there is)\n"
     "  --set KEY=VALUE           more of its section, as in retention=14d\n"
     "  --timeout TIME            how long to wait for it (60s)\n", cmd_add},
    {"remove", "DB", "stop replicating a database added with walsupctl add",
     "Uploads everything first. The replica stays, and so does the database.\n\n"
     "  --timeout TIME            how long that may take (60s)\n"
     "  --force                   also if it could not be uploaded\n", cmd_remove},
    {"reload", "", "make the daemon read its configuration again",
     "A configuration with a mistake changes nothing; every mistake is printed.\n", cmd_reload},
    {"check", "[--unit UNIT]", "try configuration, targets and databases as the service",
     "Writes, reads and deletes one small object per target. Needs no daemon. Where\n"
     "systemd runs, it is judged with the user, sandbox, environment and credentials\n"
     "of the unit that uses this configuration; run it as root.\n\n"
     "  --unit UNIT               judge as this unit, or the one in this file; none:\n"
     "                            as this process\n", cmd_check},
    {"config", "", "print the effective configuration, secrets masked",
     "  --defaults                every key with its default\n"
     "  --sample                  a commented sample file\n"
     "  --man                     the key tables of walsup.ini(5)\n", cmd_config},
    {"sandbox", "[--install]", "print a drop-in for systemd with the paths walsupd needs",
     "For the unit that uses this configuration: the directories of the databases,\n"
     "those where patterns begin, targets that are directories, and files with keys\n"
     "and certificates that the unit would not see.\n\n"
     "  --install                 write it where systemd reads it, and tell systemd\n", cmd_sandbox},
    {"import-litestream", "FILE", "print a litestream.yml as configuration of walsup",
     "What has no equivalent becomes a comment with the reason; what needs you to act\n"
     "is a warning. $NAME and ${NAME} are taken from the environment, as Litestream\n"
     "does, or from that of litestream.service; what neither has stays ${NAME}.\n\n"
     "  --no-expand-env           leave them as they are\n", cmd_import},
    {"version", "", "print the version", "", cmd_version},
    {"help", "[VERB]", "explain walsupctl or a verb",
     "  --completion SHELL        print the completion script for bash, zsh or fish\n", cmd_help},
};

static const struct ctl_verb *find_verb(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(verb); i++)
        if (!strcmp(verb[i].name, name))
            return &verb[i];
    return NULL;
}

static void print_help(FILE *f)
{
    (void)fputs("Usage: walsupctl [-c FILE] [--socket PATH] VERB [ARGUMENTS]\n\n"
                "Replicates SQLite databases with walsupd: show, steer, restore.\n\n", f);
    for (size_t i = 0; i < ARRAY_LEN(verb); i++)
        (void)fprintf(f, "  %-18s %s\n", verb[i].name, verb[i].help);
    (void)fputs("\n  -c, --config FILE  configuration (" CTL_DEFAULT_CONFIG ")\n"
                "  --socket PATH      control socket (as configured)\n"
                "  --json             machine-readable output, with every verb\n"
                "  --help, --version\n\n"
                "walsupctl VERB --help explains a verb. Manual: walsupctl(1), walsup.ini(5)\n", f);
}

static int unknown_verb(struct ctl *c, const char *name)
{
    struct err e;
    size_t best = SIZE_MAX;
    (void)err_set(&e, ERR_USAGE, "there is no verb '%s'", name);
    (void)err_hint(&e, "walsupctl help lists them");
    for (size_t i = 0; i < ARRAY_LEN(verb); i++) {
        size_t d = near_distance(name, verb[i].name);
        if (near_enough(name, d) && d < best) {
            best = d;
            (void)err_hint(&e, "did you mean %s? walsupctl help lists all verbs", verb[i].name);
        }
    }
    return out_fail(c->json, &e);
}

static json_t *help_json(void)
{
    json_t *all = json_array();
    for (size_t i = 0; i < ARRAY_LEN(verb); i++)
        (void)json_array_append_new(all, json_pack("{s:s, s:s, s:s}", "name", verb[i].name, "args",
                                                   verb[i].args, "help", verb[i].help));
    return json_pack("{s:o}", "verbs", all);
}

static int cmd_help(struct ctl *c)
{
    static const struct option own[] = {{"completion", required_argument, NULL, 's'}, {NULL, 0, NULL, 0}};
    int status, o;
    const char *shell = NULL;
    cleanup_buf struct buf script = BUF_INIT;
    while ((o = ctl_option(c, own, &status)) >= 0)
        shell = optarg;
    if (o == CTL_STOP || !ctl_operands(c, 0, shell ? 0 : 1, &status))
        return status;
    if (shell) {
        if (!completion_make(shell, verb, ARRAY_LEN(verb), &script))
            return ctl_usage_error(c, "there is a completion for bash, zsh and fish, not for '%s'", shell);
        return ctl_print(c, &script);
    }
    if (c->json)
        return out_json(help_json());
    if (optind == c->argc) {
        print_help(stdout);
        return 0;
    }
    const struct ctl_verb *v = find_verb(c->argv[optind]);
    if (!v)
        return unknown_verb(c, c->argv[optind]);
    ctl_verb_help(v);
    return 0;
}

/* the options in front of the verb */
static bool leading_options(struct ctl *c, int argc, char **argv, int *ret_status)
{
    static const struct option global[] = {{"config", required_argument, NULL, 'c'},
                                           {"socket", required_argument, NULL, 's'},
                                           {"json", no_argument, NULL, 'j'},
                                           {"help", no_argument, NULL, 'h'},
                                           {"version", no_argument, NULL, 'V'},
                                           {NULL, 0, NULL, 0}};
    struct err e;
    int o;
    opterr = 0;
    while ((o = getopt_long(argc, argv, "+:c:hV", global, NULL)) != -1)
        switch (o) {
        case 'c':
            c->config = optarg;
            c->config_given = true;
            break;
        case 's':
            c->socket = optarg;
            break;
        case 'j':
            c->json = true;
            break;
        case 'h':
            print_help(stdout);
            *ret_status = 0;
            return false;
        case 'V':
            *ret_status = cmd_version(c);
            return false;
        default:
            (void)err_set(&e, ERR_USAGE, o == ':' ? "%s needs a value" : "unknown option %s",
                          argv[optind - 1]);
            (void)err_hint(&e, "options of a verb follow the verb: walsupctl help");
            *ret_status = out_fail(c->json, &e);
            return false;
        }
    return true;
}

/* On a machine without one, that of walsupd DB URL. */
static const char *default_config(void)
{
    return access(CTL_DEFAULT_CONFIG, F_OK) < 0 && access(CTL_KEPT_CONFIG, R_OK) == 0
               ? CTL_KEPT_CONFIG
               : CTL_DEFAULT_CONFIG;
}

int main(int argc, char **argv)
{
    struct ctl c = {.config = default_config()};
    int status;
    (void)setlocale(LC_CTYPE, "");
    cred_take_environment();
    if (!leading_options(&c, argc, argv, &status))
        return status;
    if (optind == argc) {
        print_help(stderr);
        return err_exit_status(ERR_USAGE);
    }
    c.verb = find_verb(argv[optind]);
    if (!c.verb)
        return unknown_verb(&c, argv[optind]);
    c.argc = argc - optind;
    c.argv = argv + optind;
    optind = 0; /* glibc: start over, at the verb's arguments */
    status = c.verb->run(&c);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        struct err e;
        (void)err_set(&e, ERR_IO, "cannot write to standard output");
        out_error(&e);
        return err_exit_status(ERR_IO);
    }
    return status;
}
