/* Which databases are looked at every second: those that something happened to, and those that nobody has compared with
 * their files for too long. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/clk.h"
#include "daemon/core/active.h"
#include "daemon/core/database.h"

#define N 40
#define SCAN_MS 1000u

static struct active active;
static struct database db[N];

static int setup(void **state)
{
    (void)state;
    active = (struct active){.n = 0};
    memset(db, 0, sizeof db);
    for (size_t i = 0; i < N; i++) {
        db[i].conf.scan_ms = SCAN_MS;
        db[i].active = &active;
    }
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    active_done(&active);
    return 0;
}

/* As the look does when it finds it at rest; its files were compared so long ago. */
static void rests(struct database *d, uint64_t ago_ms)
{
    d->looked_ms = clk_mono_ms() - ago_ms;
    active_add(&active, d);
    active_remove(&active, d);
}

static bool is_in(const struct database *d)
{
    size_t n = 0;
    for (size_t i = 0; i < active.n; i++)
        n += active.db[i] == d;
    assert_true(n <= 1 && (n == 1) == (d->at_work.place != 0));
    return n == 1;
}

/* The list of proofs, the longest ago first: how many, and in order, and linked both ways. */
static size_t proofs(void)
{
    size_t n = 0;
    const struct database *older = NULL;
    for (const struct database *d = active.oldest; d; older = d, d = d->at_work.newer) {
        assert_ptr_equal(d->at_work.older, older);
        assert_true(d->at_work.proven);
        assert_true(!older || active_proof_ms(older) <= active_proof_ms(d));
        n++;
    }
    assert_ptr_equal(active.newest, older);
    return n;
}

static void who_is_added_twice_is_there_once(void **state)
{
    (void)state;
    for (size_t i = 0; i < N; i++) {
        active_add(&active, &db[i]);
        active_add(&active, &db[i]);
    }
    assert_int_equal(active.n, N);
    for (size_t i = 0; i < N; i++)
        assert_true(is_in(&db[i]));
    active_add(NULL, &db[0]); /* nobody looks: nothing happens */
    active_proven(NULL, &db[0]);
    assert_int_equal(active.n, N);
    assert_int_equal(proofs(), 0);
}

static void who_rests_gives_his_place_to_the_last_one(void **state)
{
    (void)state;
    for (size_t i = 0; i < 5; i++)
        active_add(&active, &db[i]);
    rests(&db[1], 0);
    assert_int_equal(active.n, 4);
    assert_ptr_equal(active.db[1], &db[4]);
    rests(&db[3], 0); /* the last one itself */
    assert_int_equal(active.n, 3);
    assert_true(!is_in(&db[1]) && !is_in(&db[3]));
    assert_true(is_in(&db[0]) && is_in(&db[2]) && is_in(&db[4]));
    assert_int_equal(proofs(), 2);
}

static void a_proof_makes_it_the_newest(void **state)
{
    (void)state;
    for (size_t i = 0; i < 4; i++)
        rests(&db[i], 400 - 100 * i);
    assert_ptr_equal(active.oldest, &db[0]);
    db[0].looked_ms = clk_mono_ms();
    active_proven(&active, &db[0]);
    assert_ptr_equal(active.newest, &db[0]);
    assert_ptr_equal(active.oldest, &db[1]);
    db[2].audited_ms = clk_mono_ms(); /* in the middle, by the other kind of look */
    active_proven(&active, &db[2]);
    assert_ptr_equal(active.newest, &db[2]);
    assert_int_equal(proofs(), 4);
}

static void what_nobody_compared_for_too_long_becomes_active_a_few_at_a_time(void **state)
{
    (void)state;
    uint64_t limit = active_proof_limit_ms(&db[0]);
    assert_true(limit > SCAN_MS);
    for (size_t i = 0; i < 6; i++)
        rests(&db[i], i < 4 ? limit + 1000 - i : 0);
    for (size_t i = 0; i < 6; i++)
        assert_int_equal(active_proof_is_old(&db[i]), i < 4);
    assert_true(active_is_due(&active, &db[3])); /* and all before it */
    assert_false(active_is_due(&active, &db[9])); /* never proven: only what happens to it makes it active */
    active_unproven(&active, 3);
    assert_int_equal(active.n, 3);
    assert_true(is_in(&db[0]) && is_in(&db[1]) && is_in(&db[2]));
    assert_ptr_equal(active.oldest, &db[3]);
    active_unproven(&active, SIZE_MAX);
    assert_int_equal(active.n, 4);
    assert_int_equal(proofs(), 2);
    active_unproven(&active, SIZE_MAX); /* the others are good */
    assert_int_equal(active.n, 4);
}

static void a_longer_scan_interval_makes_an_old_proof_good_again(void **state)
{
    (void)state;
    uint64_t limit = active_proof_limit_ms(&db[0]);
    rests(&db[0], limit + 1000);
    rests(&db[1], limit / 2);
    rests(&db[2], 0);
    active_unproven(&active, 1);
    assert_true(is_in(&db[0]));
    for (size_t i = 0; i < 3; i++)
        db[i].conf.scan_ms = 10 * SCAN_MS;
    assert_false(active_proof_is_old(&db[0]));
    active_remove(&active, &db[0]); /* at rest, and still the one of the oldest proof */
    assert_ptr_equal(active.oldest, &db[0]);
    assert_int_equal(proofs(), 3);
}

static void who_goes_away_is_in_no_list(void **state)
{
    (void)state;
    for (size_t i = 0; i < 5; i++)
        rests(&db[i], 500 - 100 * i);
    active_add(&active, &db[2]); /* awake, and in both */
    active_forget(&active, &db[2]);
    active_forget(&active, &db[0]);
    active_forget(&active, &db[4]);
    active_forget(&active, &db[4]);
    assert_int_equal(active.n, 0);
    assert_int_equal(proofs(), 2);
    assert_ptr_equal(active.oldest, &db[1]);
    assert_ptr_equal(active.newest, &db[3]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(who_is_added_twice_is_there_once, setup, teardown),
        cmocka_unit_test_setup_teardown(who_rests_gives_his_place_to_the_last_one, setup, teardown),
        cmocka_unit_test_setup_teardown(a_proof_makes_it_the_newest, setup, teardown),
        cmocka_unit_test_setup_teardown(what_nobody_compared_for_too_long_becomes_active_a_few_at_a_time, setup, teardown),
        cmocka_unit_test_setup_teardown(a_longer_scan_interval_makes_an_old_proof_good_again, setup, teardown),
        cmocka_unit_test_setup_teardown(who_goes_away_is_in_no_list, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
