#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pwd.h>
#include <sys/wait.h>

#include "ctl/check.h"
#include "tests/unit/unit_harness.h"

static int begin(void **state)
{
    (void)state;
    (void)harness_begin();
    return 0;
}

static const char *value_of(const struct unit *u, const char *key)
{
    const struct unit_line *l = unit_get(u, key);
    return l ? l->value : NULL;
}

static void only_lines_of_the_service_section_count(void **state)
{
    (void)state;
    struct unit *u = harness_unit("walsupd.service", "Type=notify\n"
                                  "  Group = ada \t\nno assignment\n"
                                  "[X-Section]\nGroup=bob\n[Service]");
    assert_null(value_of(u, "User"));
    assert_string_equal(value_of(u, "Type"), "notify");
    assert_string_equal(value_of(u, "Group"), "ada");
    assert_string_equal(u->name, "walsupd.service");
    (void)unit_free(u);
}

static void a_line_is_continued_past_comments_and_keeps_its_first_number(void **state)
{
    (void)state;
    struct unit *u = harness_unit("walsupd.service", "# User=a\n;User=b\n"
                                  "ReadWritePaths=/a \\\n# /b \\\n; /c\n  /d\\\n/e\nGroup=g");
    assert_null(value_of(u, "User"));
    assert_string_equal(value_of(u, "ReadWritePaths"), "/a    /d /e");
    assert_int_equal(unit_get(u, "ReadWritePaths")->line, 6);
    assert_int_equal(unit_get(u, "Group")->line, 11);
    (void)unit_free(u);
}

static void an_empty_line_takes_back_what_was_set_before(void **state)
{
    (void)state;
    struct unit *u = harness_unit("walsupd.service", "User=a\nUser=b\nGroup=g\nGroup=\n"
                                  "BindPaths=/a\nBindPaths=\nBindPaths=/b\nBindPaths=/c");
    assert_string_equal(value_of(u, "User"), "b");
    assert_null(value_of(u, "Group"));
    const struct unit_line *l = unit_next(u, "BindPaths", NULL);
    assert_string_equal(l->value, "/b");
    l = unit_next(u, "BindPaths", l);
    assert_string_equal(l->value, "/c");
    assert_null(unit_next(u, "BindPaths", l));
    assert_null(unit_next(u, "Group", NULL));
    (void)unit_free(u);
}

static void drop_ins_come_after_the_unit_in_the_order_of_their_names(void **state)
{
    (void)state;
    struct err e = {0};
    struct unit *u = NULL;
    harness_mkdir("walsupd.service.d");
    harness_write("walsupd.service.d/20.conf", "[Service]\nUser=second\n");
    harness_write("walsupd.service.d/10.conf",
                  "User=no-section\n[Service]\nUser=first\nGroup=first\n");
    harness_write("walsupd.service.d/30.conf~", "[Service]\nUser=an-editor's\n");
    u = harness_unit("walsupd.service", "User=unit\nGroup=unit");
    assert_string_equal(value_of(u, "User"), "second");
    assert_string_equal(value_of(u, "Group"), "first");
    assert_int_equal(u->n_files, 3);
    (void)unit_free(u);
    cleanup_free char *path = harness_text("@/walsupd.service");
    assert_int_equal(unit_load(path, "20.conf", &u, &e), 0);
    assert_string_equal(value_of(u, "User"), "first");
    (void)unit_free(u);
}

static void specifiers_are_expanded(void **state)
{
    (void)state;
    struct unit *u = harness_unit("walsupd@ada.service", "ExecStart=/bin/w -c /etc/walsup-%i.ini "
                                  "%I %n %N %p %% %t %S %E %h %q %");
    assert_string_equal(value_of(u, "ExecStart"),
                        "/bin/w -c /etc/walsup-ada.ini "
                        "ada walsupd@ada.service walsupd@ada walsupd "
                        "% /run /var/lib /etc /root %q %");
    (void)unit_free(u);
    u = harness_unit("walsupd.service", "ExecStart=[%i] %p");
    assert_string_equal(value_of(u, "ExecStart"), "[] walsupd");
    (void)unit_free(u);
}

static void each_word_for_yes_and_no_is_one(void **state)
{
    (void)state;
    static const char *const yes[] = {"yes", "true", "on", "1", "y", "t", "YES", "True"};
    static const char *const no[] = {"no", "false", "off", "0", "n", "f", "OFF"};
    for (size_t i = 0; i < ARRAY_LEN(yes); i++) {
        cleanup_free char *line = util_printf("PrivateNetwork=%s", yes[i]);
        struct unit *u = harness_unit("walsupd.service", line);
        assert_true(unit_is(u, "PrivateNetwork", "yes"));
        assert_false(unit_is(u, "PrivateNetwork", "no"));
        (void)unit_free(u);
    }
    for (size_t i = 0; i < ARRAY_LEN(no); i++) {
        cleanup_free char *line = util_printf("PrivateNetwork=%s", no[i]);
        struct unit *u = harness_unit("walsupd.service", line);
        assert_true(unit_is(u, "PrivateNetwork", "no"));
        (void)unit_free(u);
    }
    struct unit *u = harness_unit("walsupd.service",
                                  "ProtectSystem=strict\nPrivateTmp=yes\nPrivateTmp=");
    assert_true(unit_is(u, "ProtectSystem", "strict"));
    assert_false(unit_is(u, "ProtectSystem", "yes"));
    assert_false(unit_is(u, "PrivateTmp", "yes"));
    (void)unit_free(u);
}

static void words_are_unquoted(void **state)
{
    (void)state;
    static const char *const want[] = {"/a", "/b c", "x'y", "/d\"e", "", "f g"};
    const char *p = " /a \"/b c\"\t\"x'y\" /d\\\"e '' f\" \"g  ";
    char *word;
    for (size_t i = 0; i < ARRAY_LEN(want); i++) {
        p = unit_word(p, &word);
        assert_non_null(p);
        assert_string_equal(word, want[i]);
        free(word);
    }
    assert_null(unit_word(p, &word));
}

static void a_capability_is_needed_in_both_sets_unless_the_user_is_root(void **state)
{
    (void)state;
    static const struct {
        const char *lines;
        bool has; /* CAP_CHOWN */
    } row[] = {
        {"", true},
        {"User=root\nCapabilityBoundingSet=CAP_CHOWN", true},
        {"User=0\nCapabilityBoundingSet=CAP_FOWNER", false},
        {"CapabilityBoundingSet=", false},
        {"CapabilityBoundingSet=\nType=notify", false},
        {"CapabilityBoundingSet=~CAP_CHOWN", false},
        {"CapabilityBoundingSet=~CAP_FOWNER", true},
        {"CapabilityBoundingSet=CAP_CHOWN CAP_FOWNER\nCapabilityBoundingSet=~CAP_CHOWN", false},
        {"CapabilityBoundingSet=CAP_FOWNER\nCapabilityBoundingSet=cap_chown", true},
        {"CapabilityBoundingSet=CAP_CHOWN\nCapabilityBoundingSet=\n"
         "CapabilityBoundingSet=CAP_FOWNER", false},
        {"User=ada", false},
        {"DynamicUser=yes", false},
        {"User=ada\nAmbientCapabilities=CAP_CHOWN", true},
        {"User=ada\nAmbientCapabilities=CAP_FOWNER", false},
        {"User=ada\nAmbientCapabilities=CAP_CHOWN\nAmbientCapabilities=", false},
        {"User=ada\nAmbientCapabilities=CAP_CHOWN\nCapabilityBoundingSet=CAP_FOWNER", false},
        {"User=ada\nAmbientCapabilities=CAP_CHOWN\n"
         "CapabilityBoundingSet=CAP_FOWNER CAP_CHOWN", true},
        {"User=ada\nCapabilityBoundingSet=CAP_CHOWN", false},
    };
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct unit *u = harness_unit("walsupd.service", row[i].lines);
        if (unit_capable(u, "CAP_CHOWN") != row[i].has)
            fail_msg("%s: %d", row[i].lines, !row[i].has);
        (void)unit_free(u);
    }
}

static void a_list_turned_round_has_all_but_its_words(void **state)
{
    (void)state;
    static const struct {
        const char *lines;
        bool has, without; /* AF_INET */
    } row[] = {
        {"", true, true},
        {"", false, false},
        {"F=AF_UNIX", false, true},
        {"F=AF_UNIX AF_INET", true, false},
        {"F=AF_UNIX AF_INET6", false, true},
        {"F=none", false, true},
        {"F=~AF_INET AF_INET6", false, true},
        {"F=~AF_UNIX", true, false},
        {"F=AF_UNIX AF_INET\nF=~AF_INET", false, true},
        {"F=~AF_INET\nF=AF_INET", true, false},
        {"F=AF_UNIX\nF=", true, true},
    };
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct unit *u = harness_unit("walsupd.service", row[i].lines);
        if (unit_lists(u, "F", "AF_INET", row[i].without) != row[i].has)
            fail_msg("%s: %d", row[i].lines, !row[i].has);
        (void)unit_free(u);
    }
}

static void a_unit_that_cannot_be_had_is_an_error(void **state)
{
    (void)state;
    struct err e = {0};
    struct unit *u = NULL;
    cleanup_free char *none = harness_text("@/none.service"), *dir = harness_text("@/dir.service");
    assert_int_equal(unit_load(none, NULL, &u, &e), -ERR_NOTFOUND);
    harness_mkdir("dir.service");
    assert_int_equal(unit_load(dir, NULL, &u, &e), -ERR_EXISTS);
    assert_non_null(strstr(e.msg, "is masked"));
    assert_int_equal(unit_load("walsup-nosuch", NULL, &u, &e), -ERR_NOTFOUND);
    assert_string_equal(e.msg, "there is no unit walsup-nosuch.service");
    assert_null(u);
}

/* ---- the environment of its process (service_env.c) ------------------------ */

static void variables_of_the_unit_in_the_order_of_systemd(void **state)
{
    (void)state;
    harness_write("env", "# K1=comment\n; K2=comment\n"
                         "A=file\nB = b c \t\nQ=a\"b'c\nM=\"1\n2\"\nDE=\"\\n\\$\"\n"
                         "S='$x \\n'\nD=\"q\\\"r\" s\nL=one \\\ntwo\n\n"
                         "E=\nesc=a\\ b\nno-value\n  T=1\nLAST=\\");
    harness_write("2.env", "A=2");
    harness_write("1.env", "A=1\nB=1\n");
    static const struct {
        const char *lines, *name, *value; /* NULL: it is not set */
    } row[] = {
        {"", "PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
        {"Environment=A=1 \"B=2 3\" A=4", "A", "4"},
        {"Environment=A=1 \"B=2 3\" A=4", "B", "2 3"},
        {"Environment=A=1\nEnvironment=\nEnvironment=B=1", "A", NULL},
        /* files win, wherever they stand */
        {"Environment=A=unit\nEnvironmentFile=@/env", "A", "file"},
        {"EnvironmentFile=@/env\nEnvironment=A=unit", "A", "file"},
        {"EnvironmentFile=@/env", "K1", NULL},
        {"EnvironmentFile=@/env", "K2", NULL},
        {"EnvironmentFile=@/env", "B", "b c"},
        {"EnvironmentFile=@/env", "Q", "a\"b'c"}, /* quotes are quotes only at the beginning */
        {"EnvironmentFile=@/env", "M", "1\n2"},
        {"EnvironmentFile=@/env", "DE", "\\n$"},
        {"EnvironmentFile=@/env", "S", "$x \\n"},
        {"EnvironmentFile=@/env", "D", "q\"rs"}, /* spaces between two parts do not count */
        {"EnvironmentFile=@/env", "L", "one two"},
        {"EnvironmentFile=@/env", "E", ""},
        {"EnvironmentFile=@/env", "esc", "a b"},
        {"EnvironmentFile=@/env", "T", "1"},
        {"EnvironmentFile=@/env", "no-value", NULL},
        {"EnvironmentFile=-@/none\nEnvironment=A=1", "A", "1"},
        {"EnvironmentFile=@/en?", "A", "file"},
        {"EnvironmentFile=-@/{none,en[u-w]}", "A", "file"},
        {"EnvironmentFile=@/*.env", "A", "2"}, /* in the order of their names */
        {"EnvironmentFile=@/*.env", "B", "1"},
        {"EnvironmentFile=@/env\nUnsetEnvironment=A T", "A", NULL},
        {"EnvironmentFile=@/env\nUnsetEnvironment=A T", "L", "one two"},
        {"Environment=A=1 AB=2\nUnsetEnvironment=A", "AB", "2"},
        {"Environment=A=1\nUnsetEnvironment=A=2", "A", "1"},
        {"Environment=A=1\nUnsetEnvironment=A=1", "A", NULL},
    };
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct unit *u = harness_unit("walsupd.service", row[i].lines);
        cleanup_free char *value = unit_variable(u, row[i].name);
        if (!value != !row[i].value || (value && strcmp(value, row[i].value) != 0))
            fail_msg("%s: %s is %s", row[i].lines, row[i].name, value ? value : "not set");
        (void)unit_free(u);
    }
}

/* What is set for the process of a unit, and nothing of the shell that asks. */
static void the_process_gets_the_environment_of_its_user(void **state)
{
    (void)state;
    const struct passwd *me = getpwuid(geteuid());
    assert_non_null(me);
    cleanup_free char *lines = util_printf("User=%s\nEnvironment=OWN=1", me->pw_name);
    struct unit *u = harness_unit("walsupd.service", lines);
    (void)fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        (void)setenv("HOME", "/of/the/shell", 1);
        (void)setenv("OF_THE_SHELL", "1", 1);
        (void)setenv("TERM", "dumb", 1);
        service_become(service_new(u));
        const char *home = getenv("HOME"), *user = getenv("USER");
        const char *name = getenv("LOGNAME"), *shell = getenv("SHELL");
        const char *own = getenv("OWN"), *term = getenv("TERM");
        _exit(!home || strcmp(home, me->pw_dir) != 0   ? 1
              : !user || strcmp(user, me->pw_name) != 0 ? 2
              : !name || strcmp(name, me->pw_name) != 0 ? 3
              : !shell || strcmp(shell, me->pw_shell) != 0 ? 4
              : !own || strcmp(own, "1") != 0 ? 5
              : !term || strcmp(term, "dumb") != 0 ? 6 /* of the output */
              : getenv("OF_THE_SHELL") ? 7
                                       : 0);
    }
    int status = -1;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    (void)unit_free(u);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, harness_end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(only_lines_of_the_service_section_count),
        TEST(a_line_is_continued_past_comments_and_keeps_its_first_number),
        TEST(an_empty_line_takes_back_what_was_set_before),
        TEST(drop_ins_come_after_the_unit_in_the_order_of_their_names),
        TEST(specifiers_are_expanded),
        TEST(each_word_for_yes_and_no_is_one),
        TEST(words_are_unquoted),
        TEST(a_capability_is_needed_in_both_sets_unless_the_user_is_root),
        TEST(a_list_turned_round_has_all_but_its_words),
        TEST(a_unit_that_cannot_be_had_is_an_error),
        TEST(variables_of_the_unit_in_the_order_of_systemd),
        TEST(the_process_gets_the_environment_of_its_user),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
