/* Walls between pieces of work: what hangs behind one keeps nobody behind another. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/store/work.h"

#define AT_ONCE 2 /* twice work_setup()'s */
#define N 12

static uv_loop_t loop;
static uv_sem_t gate; /* opens once for each post */

struct job {
    struct work work;
    bool hangs;
    unsigned n_done;
    int status;
};
static struct job job[N];

static void run(uv_work_t *w)
{
    const struct job *j = w->data;
    if (j->hangs)
        uv_sem_wait(&gate);
}

static void done(uv_work_t *w, int status)
{
    struct job *j = w->data;
    j->n_done++;
    j->status = status;
}

static void start(int i, uint64_t wall, bool hangs)
{
    job[i] = (struct job){.hangs = hangs};
    job[i].work.uv.data = &job[i];
    work_queue(&loop, &job[i].work, wall, run, done);
}

static void until(const struct job *j)
{
    while (!j->n_done)
        (void)uv_run(&loop, UV_RUN_ONCE);
}

static void release(unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        uv_sem_post(&gate);
}

static int setup(void **state)
{
    (void)state;
    (void)uv_sem_init(&gate, 0);
    return 0;
}

static void what_hangs_behind_one_wall_keeps_nobody_behind_another(void **state)
{
    (void)state;
    for (int i = 0; i < 6; i++)
        start(i, 1, true);
    start(6, 2, false); /* once the two that hang are no longer young */
    until(&job[6]);
    assert_int_equal(work_under_way(), AT_ONCE);
    for (int i = 0; i < 6; i++)
        assert_int_equal(job[i].n_done, 0);
    start(7, 3, true); /* another wall that hangs */
    start(8, 3, true);
    start(9, 2, false);
    until(&job[9]);
    assert_int_equal(work_under_way(), 2 * AT_ONCE);
    release(8);
    for (int i = 0; i < 9; i++) {
        until(&job[i]);
        assert_int_equal(job[i].n_done, 1);
    }
    assert_int_equal(work_under_way(), 0);
}

static void not_more_than_at_once_behind_one_wall_and_in_their_order(void **state)
{
    (void)state;
    for (int i = 0; i < 4; i++)
        start(i, 1, true);
    assert_int_equal(work_under_way(), AT_ONCE);
    release(1);
    while (!job[0].n_done && !job[1].n_done)
        (void)uv_run(&loop, UV_RUN_ONCE);
    assert_int_equal(work_under_way(), AT_ONCE);
    assert_int_equal(job[2].n_done + job[3].n_done, 0);
    release(3);
    for (int i = 0; i < 4; i++)
        until(&job[i]);
}

static void what_waits_behind_a_wall_that_hangs_can_be_canceled(void **state)
{
    (void)state;
    start(0, 1, true);
    start(1, 1, true);
    start(2, 1, true);
    start(3, 1, false);
    work_cancel(&job[2].work);
    until(&job[2]);
    assert_int_equal(job[2].status, UV_ECANCELED);
    assert_int_equal(job[0].n_done + job[1].n_done + job[3].n_done, 0);
    release(2);
    until(&job[3]);
    assert_int_equal(job[3].status, 0);
    until(&job[0]);
    until(&job[1]);
}

static void many_walls_come_and_go(void **state)
{
    (void)state;
    for (int k = 0; k < 200; k++) {
        for (int i = 0; i < N; i++)
            start(i, (uint64_t)(i % 5), false);
        for (int i = 0; i < N; i++)
            until(&job[i]);
    }
    assert_int_equal(work_under_way(), 0);
}

int main(void)
{
    (void)uv_loop_init(&loop);
    work_setup(&loop, 1);
#define T(f) cmocka_unit_test_setup(f, setup)
    const struct CMUnitTest tests[] = {
        T(what_hangs_behind_one_wall_keeps_nobody_behind_another),
        T(not_more_than_at_once_behind_one_wall_and_in_their_order),
        T(what_waits_behind_a_wall_that_hangs_can_be_canceled),
        T(many_walls_come_and_go),
    };
    int r = cmocka_run_group_tests(tests, NULL, NULL);
    work_close();
    (void)uv_run(&loop, UV_RUN_DEFAULT);
    (void)uv_loop_close(&loop);
    return r;
}
