/* Who does the work: a host's poll loop, a host's threads, two runtimes in one process. */
#include "tests/capi/common.h"
#include "tests/capi/countdown_golden.inc"

typedef struct world {
  ponder_runtime *rt;
  ponder_model *m;
} world;

static int make_world(world *w, int32_t drive, const ponder_thread_pool *pool, size_t pool_size) {
  ponder_runtime_options *ro = NULL;
  ponder_model_options *mo = NULL;
  ponder_error *err = NULL;
  ponder_status st;
  w->rt = NULL, w->m = NULL;
  CHECK_OK(ponder_runtime_options_create(&ro));
  CHECK_OK(ponder_runtime_options_set_drive(ro, drive));
  CHECK_OK(ponder_runtime_options_set_threads(ro, 2));
  if (pool != NULL) CHECK_OK(ponder_runtime_options_set_thread_pool(ro, pool, pool_size));
  st = ponder_runtime_create(ro, &w->rt, &err);
  CHECK_OK(ponder_model_options_create(&mo));
  CHECK_OK(ponder_model_options_set_precision(mo, PONDER_PRECISION_F32));
  if (st == PONDER_OK) st = ponder_model_load(w->rt, kCountdownModel, mo, &w->m, &err);
  ponder_model_options_destroy(mo);
  ponder_runtime_options_destroy(ro);
  return harness_ok(__FILE__, __LINE__, "making a runtime with a model", st, err);
}
static void end_world(world *w) {
  ponder_model_release(w->m);
  ponder_runtime_release(w->rt);
}

static ponder_request *golden_request(int i) {
  ponder_request *r = ask(goldens[i].message);
  CHECK_OK(ponder_request_set_temperature(r, 0));
  return r;
}
static void check_golden(const transcript *t, int i) {
  check_whole(t);
  CHECK(t->all_count == goldens[i].greedy_count &&
        memcmp(t->all, goldens[i].greedy, t->all_count * sizeof *t->all) == 0);
}

typedef struct pool_use {
  int loops, twice, forget;
} pool_use;

typedef struct part {
  void (*fn)(void *, uint32_t);
  void *arg;
  uint32_t first, last;
} part;
static void *run_part(void *arg) {
  part *p = arg;
  uint32_t i;
  for (i = p->first; i < p->last; ++i) p->fn(p->arg, i);
  return NULL;
}
static void threaded_loop(void *user, uint32_t n, void (*fn)(void *, uint32_t), void *arg) {
  pool_use *use = user;
  part half = {fn, arg, 0, n / 2};
  pthread_t thread = spawn(run_part, &half);
  uint32_t i;
  for (i = n / 2; i < n; ++i) fn(arg, i);
  pthread_join(thread, NULL);
  __atomic_add_fetch(&use->loops, 1, __ATOMIC_SEQ_CST);
}
/* Runs some indices twice and forgets others: forbidden, and harmless all the same. */
static void sloppy_loop(void *user, uint32_t n, void (*fn)(void *, uint32_t), void *arg) {
  pool_use *use = user;
  uint32_t i;
  __atomic_add_fetch(&use->loops, 1, __ATOMIC_SEQ_CST);
  if (use->forget) return;
  for (i = 0; i < n; ++i) {
    fn(arg, 0);
    if (use->twice) fn(arg, n - 1);
  }
}

/* ---- poll -------------------------------------------------------------------------------------
 */

static void nothing_happens_outside_poll(void) {
  world w;
  ponder_session *s = NULL;
  ponder_request *r = golden_request(0);
  ponder_generation *g = NULL, *ready = NULL;
  ponder_event ev;
  ponder_stats stats;
  int i;
  if (!make_world(&w, PONDER_DRIVE_HOST, NULL, 0)) return;
  CHECK_OK(ponder_runtime_poll(w.rt, 0)); /* nothing to do */
  CHECK_STATUS(ponder_runtime_next_ready(w.rt, &ready), PONDER_PENDING);
  CHECK_OK(ponder_session_create(w.m, &s, NULL));
  CHECK_OK(ponder_session_submit(s, r, &g, NULL));
  sleep_us(20000);
  for (i = 0; i < 10 && ponder_generation_next(g, &ev, sizeof ev, NULL) == PONDER_OK; ++i)
    CHECK(ev.kind == PONDER_EVENT_STARTED);
  CHECK_OK(ponder_generation_get_stats(g, &stats, sizeof stats));
  CHECK(stats.steps == 0 && stats.thought_tokens == 0);
  ponder_generation_destroy(g);
  ponder_request_destroy(r);
  ponder_session_destroy(s);
  end_world(&w);
}

/* The game loop: every budget gives the same tokens. */
static void poll_with(uint64_t budget_us, int *frames) {
  enum { N = 3 };
  world w;
  ponder_session *s[N];
  ponder_generation *g[N], *ready = NULL;
  static transcript t[N];
  int i, done = 0;
  if (!make_world(&w, PONDER_DRIVE_HOST, NULL, 0)) return;
  for (i = 0; i < N; ++i) {
    ponder_request *r = golden_request(i);
    memset(&t[i], 0, sizeof t[i]);
    CHECK_OK(ponder_session_create(w.m, &s[i], NULL));
    CHECK_OK(ponder_session_submit(s[i], r, &g[i], NULL));
    ponder_generation_set_user_data(g[i], &t[i]);
    ponder_request_destroy(r);
  }
  for (*frames = 0; done < N && *frames < 1000000; ++*frames) {
    const ponder_status st = ponder_runtime_poll(w.rt, budget_us);
    CHECK(st == PONDER_OK || st == PONDER_PENDING);
    while (ponder_runtime_next_ready(w.rt, &ready) == PONDER_OK)
      done += !pull(ready, ponder_generation_get_user_data(ready));
    REQUIRE(st == PONDER_PENDING || done == N);
  }
  for (i = 0; i < N; ++i) {
    check_golden(&t[i], i);
    ponder_generation_destroy(g[i]);
    ponder_session_destroy(s[i]);
  }
  CHECK_OK(ponder_runtime_poll(w.rt, budget_us));
  end_world(&w);
}

static void polling_with_no_budget_makes_progress_in_slices(void) {
  int frames = 0;
  poll_with(0, &frames);
  /* 5 layers a step and at least 54 steps: a slice is no more than a layer. */
  CHECK(frames > 54 * 5);
}
static void polling_with_a_budget_works_through_it(void) {
  int frames = 0;
  poll_with(3000, &frames);
  CHECK(frames < 54 * 5 * 3);
}
static void polling_for_ever_runs_to_the_end(void) {
  int frames = 0;
  poll_with(PONDER_FOREVER, &frames);
  CHECK(frames <= 3);
}

/* A pool that says how much work a poll gave it, and can make it late: its first loop in each poll
   then takes longer than the poll may. */
typedef struct counting_pool {
  int loops; /* of this poll */
  uint64_t late_us;
} counting_pool;
static void counting_loop(void *user, uint32_t n, void (*fn)(void *, uint32_t), void *arg) {
  counting_pool *pool = user;
  uint32_t i;
  if (pool->loops++ == 0 && pool->late_us > 0) sleep_us(pool->late_us);
  for (i = 0; i < n; ++i) fn(arg, i);
}

typedef struct poll_work {
  int polls, most_loops; /* of any one poll */
} poll_work;
static poll_work work_of_polls(uint64_t budget_us, uint64_t late_us) {
  world w;
  ponder_session *s = NULL;
  ponder_request *r = golden_request(0);
  ponder_generation *g = NULL;
  counting_pool counting = {0, 0};
  ponder_thread_pool pool = {&counting, 2, 0, counting_loop};
  ponder_status st = PONDER_PENDING;
  poll_work work = {0, 0};
  if (!make_world(&w, PONDER_DRIVE_HOST, &pool, sizeof pool)) return work;
  CHECK_OK(ponder_session_create(w.m, &s, NULL));
  CHECK_OK(ponder_session_submit(s, r, &g, NULL));
  counting.late_us = late_us;
  while (st == PONDER_PENDING && work.polls < 100000) {
    counting.loops = 0;
    st = ponder_runtime_poll(w.rt, budget_us);
    if (counting.loops > work.most_loops) work.most_loops = counting.loops;
    ++work.polls;
  }
  CHECK_OK(st);
  ponder_generation_destroy(g);
  ponder_request_destroy(r);
  ponder_session_destroy(s);
  end_world(&w);
  return work;
}

/* A poll ends with the slice in which its budget does: one that is late in its first slice does no
   more than a poll without a budget, which is one slice. Counted in loops given to the pool, since
   the time that they take is the machine's affair. */
static void a_poll_ends_with_the_slice_that_its_budget_ends_in(void) {
  const uint64_t budget_us = 500;
  const poll_work slices = work_of_polls(0, 0), late = work_of_polls(budget_us, 2 * budget_us);
  const poll_work ample = work_of_polls(60000000, 0);
  printf("# %d slices of at most %d loops; %d late polls of at most %d; %d ample ones of %d\n",
         slices.polls, slices.most_loops, late.polls, late.most_loops, ample.polls,
         ample.most_loops);
  CHECK(slices.polls > 54 * 5 && slices.most_loops > 0);
  CHECK(late.most_loops <= slices.most_loops && late.polls > 54 * 5);
  CHECK(ample.polls < 54 && ample.most_loops > 5 * slices.most_loops); /* the budget is used */
}

static void poll_is_for_hosts_that_drive(void) {
  world w;
  if (!make_world(&w, PONDER_DRIVE_THREAD, NULL, 0)) return;
  CHECK_STATUS(ponder_runtime_poll(w.rt, 0), PONDER_ERR_UNSUPPORTED);
  end_world(&w);
}

static void waiting_drives_where_the_host_does(void) {
  world w;
  ponder_session *s = NULL;
  ponder_request *r = golden_request(1);
  transcript t;
  ponder_token tokens[2] = {1, 2};
  float logprob = 1;
  if (!make_world(&w, PONDER_DRIVE_HOST, NULL, 0)) return;
  CHECK_OK(ponder_session_create(w.m, &s, NULL));
  run_request(s, r, &t); /* by wait alone */
  check_golden(&t, 1);
  CHECK_OK(ponder_model_score(w.m, tokens, 2, 0, &logprob, NULL, NULL, NULL));
  CHECK(logprob < 0);
  ponder_request_destroy(r);
  ponder_session_destroy(s);
  end_world(&w);
}

static void a_wait_that_times_out_says_so(void) {
  world w;
  ponder_session *s = NULL;
  ponder_request *r = golden_request(1);
  ponder_generation *g = NULL;
  ponder_event ev;
  int i;
  if (!make_world(&w, PONDER_DRIVE_HOST, NULL, 0)) return;
  CHECK_OK(ponder_session_create(w.m, &s, NULL));
  CHECK_OK(ponder_session_submit(s, r, &g, NULL));
  for (i = 0; i < 10; ++i)
    while (ponder_generation_next(g, &ev, sizeof ev, NULL) == PONDER_OK) {
    }
  CHECK_STATUS(ponder_generation_wait(g, 0), PONDER_PENDING);
  ponder_generation_destroy(g);
  ponder_request_destroy(r);
  ponder_session_destroy(s);
  end_world(&w);
}

typedef struct nested {
  ponder_runtime *rt;
  ponder_status polled;
  int calls;
} nested;
static void poll_inside(void *user) {
  nested *n = user;
  ++n->calls;
  n->polled = ponder_runtime_poll(n->rt, 1000);
}

static void polling_inside_a_callback_is_busy(void) {
  world w;
  nested n = {NULL, PONDER_OK, 0};
  ponder_session *s = NULL;
  ponder_request *r = golden_request(0);
  ponder_generation *g = NULL;
  if (!make_world(&w, PONDER_DRIVE_HOST, NULL, 0)) return;
  n.rt = w.rt;
  CHECK_OK(ponder_session_create(w.m, &s, NULL));
  CHECK_OK(ponder_session_submit(s, r, &g, NULL));
  ponder_generation_set_waker(g, poll_inside, &n);
  while (n.calls == 0 && ponder_runtime_poll(w.rt, 1000) == PONDER_PENDING) {
  }
  CHECK(n.calls > 0);
  CHECK_STATUS(n.polled, PONDER_ERR_BUSY);
  ponder_generation_set_waker(g, NULL, NULL);
  ponder_generation_destroy(g);
  ponder_request_destroy(r);
  ponder_session_destroy(s);
  end_world(&w);
}

static void count(void *user) { __atomic_add_fetch((int *)user, 1, __ATOMIC_SEQ_CST); }

static void the_runtime_waker_announces_work_and_news(void) {
  world w;
  ponder_session *s = NULL;
  ponder_request *r = golden_request(0);
  ponder_generation *g = NULL, *ready = NULL;
  transcript t;
  int rings = 0;
  memset(&t, 0, sizeof t);
  if (!make_world(&w, PONDER_DRIVE_HOST, NULL, 0)) return;
  ponder_runtime_set_waker(w.rt, count, &rings);
  CHECK_OK(ponder_session_create(w.m, &s, NULL));
  CHECK_OK(ponder_session_submit(s, r, &g, NULL));
  CHECK(rings > 0); /* there is something to poll for */
  rings = 0;
  while (ponder_runtime_poll(w.rt, PONDER_FOREVER) == PONDER_PENDING) {
  }
  CHECK(rings > 0); /* there are events */
  CHECK_OK(ponder_runtime_next_ready(w.rt, &ready));
  CHECK(ready == g);
  pull(g, &t);
  check_golden(&t, 0);
  ponder_runtime_set_waker(w.rt, NULL, NULL);
  ponder_generation_destroy(g);
  CHECK_STATUS(ponder_runtime_next_ready(w.rt, &ready), PONDER_PENDING);
  ponder_request_destroy(r);
  ponder_session_destroy(s);
  end_world(&w);
}

static void next_ready_works_with_the_library_s_own_thread(void) {
  world w;
  ponder_session *s = NULL;
  ponder_request *r = golden_request(2);
  ponder_generation *g = NULL, *ready = NULL;
  transcript t;
  const uint64_t end = now_us() + 30000000;
  int going = 1;
  memset(&t, 0, sizeof t);
  if (!make_world(&w, PONDER_DRIVE_THREAD, NULL, 0)) return;
  CHECK_OK(ponder_session_create(w.m, &s, NULL));
  CHECK_OK(ponder_session_submit(s, r, &g, NULL));
  while (going && now_us() < end) {
    if (ponder_runtime_next_ready(w.rt, &ready) == PONDER_OK) {
      CHECK(ready == g);
      going = pull(g, &t);
    } else {
      sleep_us(200);
    }
  }
  check_golden(&t, 2);
  ponder_generation_destroy(g);
  ponder_request_destroy(r);
  ponder_session_destroy(s);
  end_world(&w);
}

/* ---- the host's threads -----------------------------------------------------------------------
 */

static void run_with_pool(ponder_thread_pool pool) {
  world w;
  ponder_session *s = NULL;
  ponder_request *r = golden_request(0);
  transcript t;
  if (!make_world(&w, PONDER_DRIVE_THREAD, &pool, sizeof pool)) return;
  CHECK_OK(ponder_session_create(w.m, &s, NULL));
  run_request(s, r, &t);
  check_golden(&t, 0);
  ponder_request_destroy(r);
  ponder_session_destroy(s);
  end_world(&w);
  CHECK(((pool_use *)pool.user)->loops > 0);
}
static void the_host_s_threads_do_the_work(void) {
  pool_use use = {0, 0, 0};
  ponder_thread_pool pool = {&use, 2, 0, threaded_loop};
  run_with_pool(pool);
}
static void a_pool_that_repeats_or_forgets_does_no_harm(void) {
  pool_use repeats = {0, 1, 0}, forgets = {0, 0, 1};
  ponder_thread_pool pool = {&repeats, 3, 0, sloppy_loop};
  run_with_pool(pool);
  pool.user = &forgets;
  run_with_pool(pool);
}

/* ---- two runtimes -----------------------------------------------------------------------------
 */

static void *drive_one(void *arg) {
  world *w = arg;
  ponder_session *s = NULL;
  int i;
  for (i = 0; i < 3; ++i) {
    ponder_request *r = golden_request(i);
    transcript t;
    CHECK_OK(ponder_session_create(w->m, &s, NULL));
    run_request(s, r, &t);
    check_golden(&t, i);
    ponder_session_destroy(s);
    ponder_request_destroy(r);
  }
  return NULL;
}

static void two_runtimes_do_not_see_each_other(void) {
  world a, b;
  pthread_t thread;
  ponder_generation *ready = NULL;
  if (!make_world(&a, PONDER_DRIVE_THREAD, NULL, 0)) return;
  if (!make_world(&b, PONDER_DRIVE_HOST, NULL, 0)) return;
  thread = spawn(drive_one, &a);
  drive_one(&b);
  CHECK_STATUS(ponder_runtime_next_ready(b.rt, &ready), PONDER_PENDING);
  pthread_join(thread, NULL);
  end_world(&a);
  drive_one(&b); /* the end of one does not touch the other */
  end_world(&b);
}

static void many_host_threads_share_one_model(void) {
  world w;
  pthread_t threads[4];
  int i;
  if (!make_world(&w, PONDER_DRIVE_THREAD, NULL, 0)) return;
  for (i = 0; i < 4; ++i) threads[i] = spawn(drive_one, &w);
  for (i = 0; i < 4; ++i) pthread_join(threads[i], NULL);
  end_world(&w);
}

int main(int argc, char **argv) {
  harness_begin(argc, argv);
  RUN(nothing_happens_outside_poll);
  RUN(polling_with_no_budget_makes_progress_in_slices);
  RUN(polling_with_a_budget_works_through_it);
  RUN(polling_for_ever_runs_to_the_end);
  RUN(a_poll_ends_with_the_slice_that_its_budget_ends_in);
  RUN(poll_is_for_hosts_that_drive);
  RUN(waiting_drives_where_the_host_does);
  RUN(a_wait_that_times_out_says_so);
  RUN(polling_inside_a_callback_is_busy);
  RUN(the_runtime_waker_announces_work_and_news);
  RUN(next_ready_works_with_the_library_s_own_thread);
  RUN(the_host_s_threads_do_the_work);
  RUN(a_pool_that_repeats_or_forgets_does_no_harm);
  RUN(two_runtimes_do_not_see_each_other);
  RUN(many_host_threads_share_one_model);
  return harness_end();
}
