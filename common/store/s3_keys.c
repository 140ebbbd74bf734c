#include "common/store/s3_keys.h"

#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>

#include "common/base/buf.h"
#include "common/base/clk.h"
#include "common/base/program.h"
#include "common/store/s3_wrap.h"
#include "common/store/store_impl.h"

#define ANSWER_MAX_BYTES ((size_t)64 << 10)
#define PROCESS_MS 15000
#define HTTP_MS 5000
#define MAX_WORDS 64

/* ---- what all of them answer ------------------------------------------------------------------- */

static char *member(const json_t *j, const char *name)
{
    const char *s = json_string_value(json_object_get(j, name));
    return s && *s ? util_strdup(s) : NULL;
}

/* jansson frees its strings as they are */
static struct secret *take_member(json_t *j, const char *name)
{
    json_t *v = json_object_get(j, name);
    const char *text = json_string_value(v);
    struct secret *s = secret_text(text);
    if (text)
        explicit_bzero((void *)(uintptr_t)text, json_string_length(v));
    return s;
}

static int parse(const struct buf *b, struct cred *ret, struct err *e)
{
    struct cred c = {0};
    json_t *j = json_loadb((const char *)b->p, b->len, JSON_REJECT_DUPLICATES, NULL);
    const char *end = json_string_value(json_object_get(j, "Expiration"));
    c.key_id = member(j, "AccessKeyId");
    c.secret = take_member(j, "SecretAccessKey");
    c.token = take_member(j, "SessionToken");
    if (!c.token)
        c.token = take_member(j, "Token");
    bool good = c.key_id && c.secret && (!end || store_rfc3339(end, &c.expires_ms));
    json_decref(j);
    if (!good) {
        cred_done(&c);
        return err_set(e, ERR_AUTH, "the answer is not JSON with AccessKeyId and SecretAccessKey");
    }
    *ret = c;
    return 0;
}

/* ---- a program --------------------------------------------------------------------------------- */

/* Words as in a shell, but nothing is expanded: blanks separate, ' and " group, \ takes the next as it is. */
static bool split(char *text, char *word[static MAX_WORDS + 1])
{
    size_t n = 0;
    char *to = text;
    const char *p = text;
    for (;;) {
        p += strspn(p, " \t");
        if (!*p)
            break;
        if (n == MAX_WORDS)
            return false;
        word[n++] = to;
        char quote = 0;
        for (; *p && (quote || (*p != ' ' && *p != '\t')); p++) {
            if (quote ? *p == quote : *p == '\'' || *p == '"')
                quote = quote ? '\0' : *p;
            else if (*p == '\\' && quote != '\'' && p[1])
                *to++ = *++p;
            else
                *to++ = *p;
        }
        if (quote)
            return false;
        bool more = *p;
        *to++ = '\0';
        if (!more)
            break;
        p++;
    }
    word[n] = NULL;
    return n > 0 && word[0][0] == '/';
}

/* all that it prints, until it closes its output; 0 or what went wrong */
static int read_output(int fd, struct buf *out, struct err *e)
{
    const char *test = getenv("WALSUP_TEST_KEYS_MS");
    uint64_t ms = test ? strtoull(test, NULL, 10) : PROCESS_MS, end = clk_mono_ms() + ms;
    for (;;) {
        uint64_t now = clk_mono_ms();
        struct pollfd p = {fd, POLLIN, 0};
        if (now >= end)
            return err_set(e, ERR_TIMEOUT, "it did not end within %llu ms", (unsigned long long)ms);
        if (poll(&p, 1, (int)(end - now)) <= 0)
            continue;
        uint8_t *to = buf_reserve(out, 4096);
        ssize_t n = to ? read(fd, to, 4096) : -1;
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_sys(e, errno, "read what it prints");
        if (n == 0)
            return 0;
        out->len += (size_t)n;
        if (out->len > ANSWER_MAX_BYTES)
            return err_set(e, ERR_AUTH, "it printed more than %zu bytes", ANSWER_MAX_BYTES);
    }
}

/* What such programs look at: of ours, which may have keys of other targets, they get no more. */
static char **environment(void)
{
    static const char *const passed[] = {"PATH=", "HOME=", "USER=", "LOGNAME=", "SHELL=", "TZ=", "LANG=", "LC_", "XDG_", "AWS_",
                                         "CREDENTIALS_DIRECTORY=", "SSL_CERT_", "http_proxy=", "https_proxy=", "no_proxy=",
                                         "HTTP_PROXY=", "HTTPS_PROXY=", "NO_PROXY="};
    size_t n = 0, all = 0;
    while (environ[all])
        all++;
    char **env = util_zalloc((all + 1) * sizeof *env);
    for (size_t i = 0; i < all; i++)
        for (size_t k = 0; k < ARRAY_LEN(passed); k++)
            if (!strncmp(environ[i], passed[k], strlen(passed[k])))
                env[n++] = environ[i];
    return env;
}

static int start(char *const *word, pid_t *ret_pid, int *ret_fd, struct err *e)
{
    int fd[2], r = program_may_run(word[0], e);
    if (r < 0)
        return r;
    if (pipe2(fd, O_CLOEXEC) < 0)
        return err_sys(e, errno, "pipe");
    char **env = environment();
    *ret_pid = program_start(word, env, fd[1], e);
    free(env);
    (void)close(fd[1]);
    if (*ret_pid < 0) {
        (void)close(fd[0]);
        return *ret_pid;
    }
    *ret_fd = fd[0];
    return 0;
}

static int from_process(const char *command, struct cred *ret, struct err *e)
{
    cleanup_wiped_buf struct buf out = BUF_INIT;
    cleanup_free char *copy = util_strdup(command);
    char *word[MAX_WORDS + 1];
    pid_t pid = -1;
    int fd = -1, status = 0;
    if (!split(copy, word))
        return err_set(e, ERR_CONFIG, "it is not an absolute path with arguments, quotes in pairs");
    int r = start(word, &pid, &fd, e);
    if (r < 0)
        return r;
    r = read_output(fd, &out, e);
    (void)close(fd);
    if (r < 0)
        (void)kill(-pid, SIGKILL);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (r == 0 && (!WIFEXITED(status) || WEXITSTATUS(status) != 0)) {
        (void)err_set(e, ERR_AUTH, "it ended with %s %d", WIFEXITED(status) ? "status" : "signal",
                      WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
        return err_hint(e, "run it by hand as the user of the daemon; what it prints on standard error is not kept");
    }
    return r < 0 ? r : parse(&out, ret, e);
}

/* ---- a service --------------------------------------------------------------------------------- */

static size_t take(char *p, size_t size, size_t n, void *arg)
{
    struct buf *b = arg;
    if (b->len + n * size > ANSWER_MAX_BYTES)
        return 0;
    buf_add(b, p, n * size);
    return n * size;
}

/* one small request, straight to that host */
static int ask(const char *url, const char *method, const char *header, struct buf *out, struct err *e)
{
    CURL *c = __real_curl_easy_init();
    struct curl_slist *list = header ? __real_curl_slist_append(NULL, header) : NULL;
    long status = 0;
    if (!c || (header && !list)) {
        __real_curl_easy_cleanup(c);
        return err_set(e, ERR_NOMEM, "no memory to ask for keys");
    }
    (void)__real_curl_easy_setopt(c, CURLOPT_URL, url);
    (void)__real_curl_easy_setopt(c, CURLOPT_CUSTOMREQUEST, method);
    (void)__real_curl_easy_setopt(c, CURLOPT_HTTPHEADER, list);
    (void)__real_curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
    (void)__real_curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 0L);
    (void)__real_curl_easy_setopt(c, CURLOPT_PROXY, "");
    (void)__real_curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    (void)__real_curl_easy_setopt(c, CURLOPT_NETRC, (long)CURL_NETRC_IGNORED);
    (void)__real_curl_easy_setopt(c, CURLOPT_TIMEOUT_MS, (long)HTTP_MS);
    (void)__real_curl_easy_setopt(c, CURLOPT_USERAGENT, "walsup/" WALSUP_VERSION);
    (void)__real_curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, take);
    (void)__real_curl_easy_setopt(c, CURLOPT_WRITEDATA, out);
    CURLcode rc = __real_curl_easy_perform(c);
    (void)__real_curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, &status);
    __real_curl_easy_cleanup(c);
    for (struct curl_slist *i = list; i; i = i->next)
        explicit_bzero(i->data, strlen(i->data));
    __real_curl_slist_free_all(list);
    if (rc != CURLE_OK)
        return err_set(e, ERR_NET, "%s %.100s: %s", method, url, curl_easy_strerror(rc));
    if (status != 200)
        return err_set(e, ERR_AUTH, "%s %.100s: status %ld", method, url, status);
    return 0;
}

/* As the AWS SDKs have it: over plain http only to this machine, or to the two addresses that ECS and EKS use. */
static bool may_ask(const char *url)
{
    static const char *const safe[] = {"https://", "http://127.", "http://localhost", "http://[::1]",
                                       "http://169.254.170.2", "http://169.254.170.23", "http://[fd00:ec2::23]"};
    for (size_t i = 0; i < ARRAY_LEN(safe); i++) {
        size_t n = strlen(safe[i]);
        if (!strncmp(url, safe[i], n) && (i < 2 || strchr(":/", url[n])))
            return !strchr(url, '@');
    }
    return false;
}

static int container_token(char **ret, struct err *e)
{
    const char *file = getenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE");
    const char *value = getenv("AWS_CONTAINER_AUTHORIZATION_TOKEN");
    if (!file || !*file) {
        *ret = value && *value ? util_printf("Authorization: %s", value) : NULL;
        return 0;
    }
    cleanup_secret struct secret *text = NULL;
    int r = cred_read_secret(file, false, &text, e);
    if (r < 0)
        return r;
    *ret = util_printf("Authorization: %s", secret_reveal(text)); /* the caller wipes it */
    return 0;
}

static int from_container(struct cred *ret, struct err *e)
{
    const char *full = getenv("AWS_CONTAINER_CREDENTIALS_FULL_URI");
    const char *relative = getenv("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI");
    cleanup_wiped_buf struct buf out = BUF_INIT;
    cleanup_free char *url = relative && *relative ? util_printf("http://169.254.170.2%s", relative)
                                                   : util_strdup(full ? full : "");
    char *header = NULL;
    if (!may_ask(url))
        return err_set(e, ERR_CONFIG, "%.100s is neither https nor a host that such keys come from", url);
    int r = container_token(&header, e);
    if (r == 0)
        r = ask(url, "GET", header, &out, e);
    secret_wipe(header);
    return r < 0 ? r : parse(&out, ret, e);
}

static int from_instance(struct cred *ret, struct err *e)
{
    static const char path[] = "/latest/meta-data/iam/security-credentials/";
    const char *given = getenv("AWS_EC2_METADATA_SERVICE_ENDPOINT");
    const char *base = given && *given ? given : "http://169.254.169.254";
    cleanup_wiped_buf struct buf token = BUF_INIT;
    cleanup_wiped_buf struct buf role = BUF_INIT;
    cleanup_wiped_buf struct buf out = BUF_INIT;
    cleanup_free char *token_url = util_printf("%s/latest/api/token", base);
    int r = ask(token_url, "PUT", "X-aws-ec2-metadata-token-ttl-seconds: 21600", &token, e);
    if (r < 0) {
        (void)err_hint(e, "is this an EC2 instance, and does its metadata service answer here (hop "
                          "limit in containers)?");
        return r;
    }
    char *header = util_printf("X-aws-ec2-metadata-token: %s", buf_str(&token));
    cleanup_free char *role_url = util_printf("%s%s", base, path);
    r = ask(role_url, "GET", header, &role, e);
    if (r < 0)
        (void)err_hint(e, "does the instance have a role?");
    if (r == 0) {
        char *name = (char *)(uintptr_t)buf_str(&role);
        name[strcspn(name, "\r\n")] = '\0';
        cleanup_free char *url = util_printf("%s%s%s", base, path, name);
        r = ask(url, "GET", header, &out, e);
    }
    secret_wipe(header);
    return r < 0 ? r : parse(&out, ret, e);
}

int s3_keys_fetch(enum cred_kind kind, const char *command, struct cred *ret, struct err *e)
{
    int r = kind == CRED_PROCESS     ? from_process(command, ret, e)
            : kind == CRED_CONTAINER ? from_container(ret, e)
                                     : from_instance(ret, e);
    static const char *const name[] = {[CRED_PROCESS] = "credential-process", [CRED_CONTAINER] = "the container's role",
                                       [CRED_INSTANCE] = "the instance's role"};
    if (r < 0)
        return err_wrap(e, "%s%s%.*s", name[kind], command ? " " : "", command ? (int)strcspn(command, " \t") : 0,
                        command ? command : "");
    ret->source = util_strdup(name[kind]);
    ret->kind = kind;
    ret->command = command ? util_strdup(command) : NULL;
    return 0;
}
