#include "common/store/needs.h"

#include <stdlib.h>

char *needs_parent(const char *path)
{
    char *dir = util_strdup(path);
    char *slash = strrchr(dir, '/');
    slash[slash == dir] = '\0';
    return dir;
}

bool needs_below(const char *path, const char *dir)
{
    size_t n = strlen(dir);
    return !strncmp(path, dir, n) && (!path[n] || path[n] == '/' || (n && dir[n - 1] == '/'));
}

static void add(struct needs *l, enum need_kind kind, const char *path, const char *what,
                const char *name, const char *key)
{
    if (!path || *path != '/')
        return;
    l->item = util_realloc(l->item, (l->n + 1) * sizeof *l->item);
    l->item[l->n++] = (struct need){util_strdup(path), kind, what, name, key};
}

/* The first word of a command line, which may be in quotes. */
static void add_program(struct needs *l, const char *command, const char *what, const char *name, const char *key)
{
    if (!command)
        return;
    char quote = *command == '"' || *command == '\'' ? *command++ : '\0';
    const char stop[] = {quote ? quote : ' ', quote ? '\0' : '\t', '\0'};
    cleanup_free char *first = strndup(command, strcspn(command, stop));
    add(l, NEED_RUN, first, what, name, key);
}

static void add_target(struct needs *l, const struct conf_target *t)
{
    const struct {
        const char *key, *path;
    } file[] = {{"secret-access-key-file", t->secret_access_key_file}, {"credentials-file", t->credentials_file},
                {"ca-file", t->ca_file}, {"client-certificate", t->client_certificate}, {"client-key", t->client_key},
                {"sse-customer-key-file", t->sse_customer_key_file}};
    if (t->type == CONF_FILE) {
        add(l, NEED_WRITE_DIR, t->path, "target", t->name, "path");
        return;
    }
    for (size_t i = 0; i < ARRAY_LEN(file); i++)
        add(l, NEED_READ_FILE, file[i].path, "target", t->name, file[i].key);
    add(l, NEED_READ_DIR, t->ca_path, "target", t->name, "ca-path");
    add_program(l, t->credential_process, "target", t->name, "credential-process");
}

void needs_collect(const struct conf *conf, const char *conf_path, struct needs *l)
{
    add(l, NEED_READ_FILE, conf_path, "configuration", "", "--config");
    if (conf->include && *conf->include == '/') {
        cleanup_free char *dir = needs_parent(conf->include);
        if (!strpbrk(dir, "*?["))
            add(l, NEED_READ_DIR, dir, "include", "", "include");
    }
    for (size_t i = 1; i < conf->n_files; i++)
        add(l, NEED_READ_FILE, conf->file[i], "include", "", "include");
    add(l, NEED_WRITE_DIR, conf->state_dir, "state-dir", "", "state-dir");
    add(l, NEED_WRITE_BESIDE, conf->socket, "socket", "", "socket");
    add_program(l, conf->on_state_change, "walsup", "", "on-state-change");
    for (size_t i = 0; i < conf->n_targets; i++)
        add_target(l, &conf->target[i]);
    for (size_t i = 0; i < conf->n_dbs; i++) {
        const struct conf_db *d = &conf->db[i];
        add(l, d->glob ? NEED_WRITE_DIR : NEED_WRITE_BESIDE, d->glob ? glob_base(d->glob) : d->path,
            "db", d->name, "path");
    }
}

void needs_environment(struct needs *l)
{
    static const char *const file[] = {"AWS_SHARED_CREDENTIALS_FILE", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
                                       "SSL_CERT_FILE"};
    for (size_t i = 0; i < ARRAY_LEN(file); i++)
        add(l, NEED_READ_FILE, getenv(file[i]), "environment", "", file[i]);
    add(l, NEED_READ_DIR, getenv("CREDENTIALS_DIRECTORY"), "environment", "", "CREDENTIALS_DIRECTORY");
    add(l, NEED_READ_DIR, getenv("SSL_CERT_DIR"), "environment", "", "SSL_CERT_DIR");
    const char *home = getenv("HOME");
    cleanup_free char *aws = home && *home == '/' ? util_printf("%s/.aws", home) : NULL;
    if (aws && access(aws, F_OK) == 0)
        add(l, NEED_READ_DIR, aws, "environment", "", "HOME");
}

void needs_done(struct needs *l)
{
    for (size_t i = 0; i < l->n; i++)
        free(l->item[i].path);
    free(l->item);
    *l = (struct needs){.item = NULL};
}
