/* Order of destruction: every permutation of giving handles back, from one thread and from several,
 * while a generation runs and after it. Sanitizers make this test strict. */
#include "tests/capi/common.h"

enum { RUNTIME, MODEL, SESSION, GENERATION, REQUEST, CHAT, KINDS };

typedef struct set {
  ponder_runtime *rt;
  ponder_model *m;
  ponder_session *s;
  ponder_generation *g;
  ponder_request *r;
  ponder_chat *c;
} set;

static int make(set *x) {
  ponder_error *err = NULL;
  ponder_runtime_options *o = NULL;
  ponder_status st = ponder_runtime_options_create(&o);
  memset(x, 0, sizeof *x);
  if (st == PONDER_OK) st = ponder_runtime_options_set_threads(o, 1);
  if (st == PONDER_OK) st = ponder_runtime_create(o, &x->rt, &err);
  ponder_runtime_options_destroy(o);
  if (st == PONDER_OK) st = ponder_model_load(x->rt, kCountdownModel, NULL, &x->m, &err);
  if (st == PONDER_OK) st = ponder_session_create(x->m, &x->s, &err);
  if (st == PONDER_OK) st = ponder_chat_create(&x->c);
  if (st == PONDER_OK)
    st = ponder_chat_add(x->c, PONDER_ROLE_USER, "Use 3, 5 and 7 to make 22.", PONDER_STRLEN);
  if (st == PONDER_OK) st = ponder_request_create(&x->r);
  if (st == PONDER_OK) st = ponder_request_set_chat(x->r, x->c);
  if (st == PONDER_OK) st = ponder_session_submit(x->s, x->r, &x->g, &err);
  return harness_ok(__FILE__, __LINE__, "making one of everything", st, err);
}

static void drop(set *x, int kind) {
  switch (kind) {
    case RUNTIME:
      ponder_runtime_release(x->rt);
      break;
    case MODEL:
      ponder_model_release(x->m);
      break;
    case SESSION:
      ponder_session_destroy(x->s);
      break;
    case GENERATION:
      ponder_generation_destroy(x->g);
      break;
    case REQUEST:
      ponder_request_destroy(x->r);
      break;
    default:
      ponder_chat_destroy(x->c);
  }
}

/* The next permutation in lexical order; 0 after the last. */
static int next_order(int *order, int n) {
  int i = n - 2, j = n - 1, k;
  while (i >= 0 && order[i] > order[i + 1]) --i;
  if (i < 0) return 0;
  while (order[j] < order[i]) --j;
  k = order[i], order[i] = order[j], order[j] = k;
  for (++i, j = n - 1; i < j; ++i, --j) k = order[i], order[i] = order[j], order[j] = k;
  return 1;
}

static void every_order_while_it_runs(void) {
  int order[4] = {RUNTIME, MODEL, SESSION, GENERATION};
  do {
    set x;
    int i;
    if (!make(&x)) return;
    drop(&x, CHAT); /* copied by the request, which is copied by submit */
    drop(&x, REQUEST);
    for (i = 0; i < 4; ++i) drop(&x, order[i]);
  } while (next_order(order, 4));
}

static void every_order_after_it_ended(void) {
  int order[4] = {RUNTIME, MODEL, SESSION, GENERATION};
  do {
    set x;
    transcript t;
    int i;
    if (!make(&x)) return;
    pull_all(x.g, &t);
    check_whole(&t);
    for (i = 0; i < 4; ++i) drop(&x, order[i]);
    drop(&x, REQUEST);
    drop(&x, CHAT);
  } while (next_order(order, 4));
}

static void a_generation_outlives_all_other_handles(void) {
  set x;
  transcript t;
  if (!make(&x)) return;
  drop(&x, RUNTIME);
  drop(&x, MODEL);
  drop(&x, CHAT);
  drop(&x, REQUEST);
  pull_all(x.g, &t);
  check_whole(&t);
  drop(&x, SESSION);
  drop(&x, GENERATION);
}

static void a_session_outlives_model_and_runtime_handles(void) {
  set x;
  transcript t;
  if (!make(&x)) return;
  drop(&x, GENERATION);
  drop(&x, RUNTIME);
  drop(&x, MODEL);
  sleep_us(1000);
  for (;;) { /* the cancelled generation may take a layer to end */
    ponder_generation *g = NULL;
    const ponder_status st = ponder_session_submit(x.s, x.r, &g, NULL);
    if (st == PONDER_ERR_BUSY) continue;
    CHECK_OK(st);
    pull_all(g, &t);
    check_whole(&t);
    ponder_generation_destroy(g);
    break;
  }
  drop(&x, CHAT);
  drop(&x, REQUEST);
  drop(&x, SESSION);
}

typedef struct job {
  set *x;
  int kind;
  pthread_barrier_t *start;
} job;
static void *drop_on_thread(void *arg) {
  job *j = arg;
  pthread_barrier_wait(j->start);
  drop(j->x, j->kind);
  return NULL;
}

static void all_at_once_from_different_threads(void) {
  int round;
  for (round = 0; round < 30; ++round) {
    set x;
    job jobs[KINDS];
    pthread_t threads[KINDS];
    pthread_barrier_t start;
    int i;
    if (!make(&x)) return;
    pthread_barrier_init(&start, NULL, KINDS);
    for (i = 0; i < KINDS; ++i) {
      jobs[i].x = &x, jobs[i].kind = i, jobs[i].start = &start;
      threads[i] = spawn(drop_on_thread, &jobs[i]);
    }
    for (i = 0; i < KINDS; ++i) pthread_join(threads[i], NULL);
    pthread_barrier_destroy(&start);
  }
}

static void counted_handles_live_until_the_last_reference(void) {
  set x;
  ponder_model_info info;
  if (!make(&x)) return;
  CHECK(ponder_model_retain(x.m) == x.m);
  CHECK(ponder_runtime_retain(x.rt) == x.rt);
  ponder_model_release(x.m);
  ponder_runtime_release(x.rt);
  CHECK_OK(ponder_model_get_info(x.m, &info, sizeof info));
  CHECK(ponder_runtime_device_count(x.rt) >= 1);
  drop(&x, MODEL);
  drop(&x, RUNTIME);
  drop(&x, GENERATION);
  drop(&x, SESSION);
  drop(&x, REQUEST);
  drop(&x, CHAT);
}

typedef struct waker_state {
  int alive, late;
} waker_state;
static void check_alive(void *user) {
  waker_state *w = user;
  if (!__atomic_load_n(&w->alive, __ATOMIC_SEQ_CST)) w->late = 1;
  sleep_us(100);
  if (!__atomic_load_n(&w->alive, __ATOMIC_SEQ_CST)) w->late = 1;
}

/* After destroy the waker's user may be freed: nothing of it runs any more. */
static void no_waker_runs_after_destroy(void) {
  set x;
  int i;
  if (!make(&x)) return;
  drop(&x, GENERATION);
  for (i = 0; i < 40; ++i) {
    waker_state w = {1, 0};
    ponder_generation *g = NULL;
    ponder_status st;
    do st = ponder_session_submit(x.s, x.r, &g, NULL);
    while (st == PONDER_ERR_BUSY);
    REQUIRE(st == PONDER_OK);
    ponder_generation_set_waker(g, check_alive, &w);
    sleep_us(i * 100);
    ponder_generation_destroy(g);
    __atomic_store_n(&w.alive, 0, __ATOMIC_SEQ_CST);
    sleep_us(200);
    CHECK(!w.late);
  }
  drop(&x, SESSION);
  drop(&x, MODEL);
  drop(&x, RUNTIME);
  drop(&x, REQUEST);
  drop(&x, CHAT);
}

static void requests_and_chats_are_copied(void) {
  set x;
  transcript first, second;
  if (!make(&x)) return;
  ponder_request_set_temperature(x.r, 0);
  pull_all(x.g, &first);
  drop(&x, GENERATION);
  run_request(x.s, x.r, &first);
  /* What is done to the chat later is not seen. */
  CHECK_OK(ponder_chat_add(x.c, PONDER_ROLE_USER, "And 12 from 3 and 4?", PONDER_STRLEN));
  run_request(x.s, x.r, &second);
  CHECK(first.prompt_tokens == second.prompt_tokens && strcmp(first.answer, second.answer) == 0);
  drop(&x, CHAT);
  drop(&x, REQUEST);
  drop(&x, SESSION);
  drop(&x, MODEL);
  drop(&x, RUNTIME);
}

int main(int argc, char **argv) {
  harness_begin(argc, argv);
  RUN(every_order_while_it_runs);
  RUN(every_order_after_it_ended);
  RUN(a_generation_outlives_all_other_handles);
  RUN(a_session_outlives_model_and_runtime_handles);
  RUN(all_at_once_from_different_threads);
  RUN(counted_handles_live_until_the_last_reference);
  RUN(no_waker_runs_after_destroy);
  RUN(requests_and_chats_are_copied);
  return harness_end();
}
