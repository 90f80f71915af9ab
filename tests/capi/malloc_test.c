/* malloc fails at its n-th call, wherever in the library that is, the engine's thread included.
 *
 * This program brings its own malloc, which the dynamic linker gives to libponder.so as well. Each
 * attempt to load and answer must end in an answer or in OUT_OF_MEMORY, and leave nothing behind.
 */
#include <errno.h>
#include <malloc.h>

#include "tests/capi/common.h"

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

static long armed_calls, fail_at; /* counts only while fail_at is set; -1 counts and never fails */
static int stays;                 /* all calls after fail_at fail as well */
static long live;

static int fails_now(void) {
  long n;
  const long at = __atomic_load_n(&fail_at, __ATOMIC_SEQ_CST);
  if (at == 0) return 0;
  n = __atomic_add_fetch(&armed_calls, 1, __ATOMIC_SEQ_CST);
  return at > 0 && (n == at || (stays && n > at));
}
static void *counted(void *p) {
  if (p != NULL) __atomic_add_fetch(&live, 1, __ATOMIC_SEQ_CST);
  return p;
}
void *malloc(size_t size) {
  if (fails_now()) return errno = ENOMEM, (void *)NULL;
  return counted(__libc_malloc(size));
}
void *calloc(size_t n, size_t size) {
  if (fails_now()) return errno = ENOMEM, (void *)NULL;
  return counted(__libc_calloc(n, size));
}
void *realloc(void *p, size_t size) {
  if (fails_now()) return errno = ENOMEM, (void *)NULL;
  return p == NULL ? counted(__libc_malloc(size)) : __libc_realloc(p, size);
}
void free(void *p) {
  if (p != NULL) __atomic_sub_fetch(&live, 1, __ATOMIC_SEQ_CST);
  __libc_free(p);
}
void *memalign(size_t align, size_t size) {
  if (fails_now()) return errno = ENOMEM, (void *)NULL;
  return counted(__libc_memalign(align, size));
}
void *aligned_alloc(size_t align, size_t size) { return memalign(align, size); }
/* Never fails here: nobody but oneDNN 3.7 calls it, whose objects do not survive it (their operator
 * new returns NULL to constructors that do not look; compiled with -fcheck-new they would). */
int posix_memalign(void **out, size_t align, size_t size) {
  *out = counted(__libc_memalign(align, size));
  return *out != NULL ? 0 : ENOMEM;
}

static int with_draft_model; /* it speculates by a second model instead of n-grams */

/* The first failure, or OK; every call is made through the whole life of every object. */
static ponder_status attempt(int32_t drive) {
  ponder_runtime_options *ro = NULL;
  ponder_runtime *rt = NULL;
  ponder_model *m = NULL, *draft = NULL;
  ponder_session *s = NULL, *fork = NULL;
  ponder_chat *c = NULL;
  ponder_request *r = NULL;
  ponder_generation *g = NULL;
  ponder_error *err = NULL;
  ponder_event ev;
  ponder_status st, told;
  ponder_str words;
  st = ponder_runtime_options_create(&ro);
  if (st == PONDER_OK) st = ponder_runtime_options_set_threads(ro, 2);
  if (st == PONDER_OK) st = ponder_runtime_options_set_drive(ro, drive);
  if (st == PONDER_OK) st = ponder_runtime_create(ro, &rt, &err);
  if (st == PONDER_OK) st = ponder_model_load(rt, kCountdownModel, NULL, &m, &err);
  if (st == PONDER_OK) st = ponder_session_create(m, &s, &err);
  if (st == PONDER_OK) st = ponder_chat_create(&c);
  if (st == PONDER_OK)
    st = ponder_chat_add_json(c, "[{\"role\":\"user\",\"content\":\"Use 3, 5 and 7 to make 22.\"}]",
                              PONDER_STRLEN, &err);
  if (st == PONDER_OK) st = ponder_request_create(&r);
  if (st == PONDER_OK) st = ponder_request_set_chat(r, c);
  if (st == PONDER_OK) st = ponder_request_set_thought_budget(r, 0, 4);
  if (st == PONDER_OK) st = ponder_request_set_logprobs(r, 2);
  if (st == PONDER_OK) st = ponder_request_set_speculation(r, PONDER_SPECULATION_NGRAM, 4);
  if (with_draft_model) {
    if (st == PONDER_OK) st = ponder_model_load(rt, kCountdownModel, NULL, &draft, &err);
    if (st == PONDER_OK) st = ponder_request_set_draft_model(r, draft);
    if (st == PONDER_OK) st = ponder_request_set_speculation(r, PONDER_SPECULATION_DRAFT_MODEL, 4);
    ponder_model_release(draft);
  }
  if (st == PONDER_OK) st = ponder_request_add_stop(r, "=", 1);
  if (st == PONDER_OK) st = ponder_request_set_max_tokens(r, with_draft_model ? 16 : 8);
  if (st == PONDER_OK) st = ponder_session_submit(s, r, &g, &err);
  while (st >= 0 && st != PONDER_DONE) {
    st = ponder_generation_next(g, &ev, sizeof ev, &err);
    if (st == PONDER_PENDING) st = ponder_generation_wait(g, PONDER_FOREVER);
  }
  if (st == PONDER_DONE) st = ponder_session_fork(s, &fork);
  if (err != NULL) {
    ponder_error_get(err, &told, &words);
    CHECK_STATUS(told, st);
    CHECK(words.size > 10);
  }
  ponder_error_destroy(err);
  ponder_generation_destroy(g);
  ponder_session_destroy(fork);
  ponder_session_destroy(s);
  ponder_request_destroy(r);
  ponder_chat_destroy(c);
  ponder_model_release(m);
  ponder_runtime_release(rt);
  ponder_runtime_options_destroy(ro);
  return st;
}

static void fail_at_any_call(int32_t drive, int from_then_on, int all) {
  long n, calls, before, tried = 0, failed = 0;
  ponder_status st;
  CHECK_OK(attempt(drive)); /* whatever is made once per process is made now */
  CHECK_OK(attempt(drive));
  before = live;
  armed_calls = 0, fail_at = -1;
  CHECK_OK(attempt(drive));
  fail_at = 0;
  calls = armed_calls;
  stays = from_then_on;
  /* The first ones all, then ever wider steps of different length, so that all kinds are met. */
  for (n = 1; n <= calls; n += all || n < 200 ? 1 : n / 90 + n % 7) {
    armed_calls = 0;
    __atomic_store_n(&fail_at, n, __ATOMIC_SEQ_CST);
    st = attempt(drive);
    __atomic_store_n(&fail_at, 0, __ATOMIC_SEQ_CST);
    ++tried;
    failed += st != PONDER_OK;
    if (st != PONDER_OK && st != PONDER_ERR_OUT_OF_MEMORY) {
      printf("# with malloc %ld of %ld failing\n", n, calls);
      CHECK_STATUS(st, PONDER_ERR_OUT_OF_MEMORY);
    }
  }
  stays = 0;
  CHECK_OK(attempt(drive));
  printf("# %ld of %ld calls failed, %ld attempts ended in a failure\n", tried, calls, failed);
  CHECK(failed * 2 > tried); /* else nothing was tested */
  printf("# %ld blocks before, %ld after\n", before, live);
  CHECK(live <= before + 8); /* the system keeps a few per thread that lived */
}

static void one_call_fails(void) { fail_at_any_call(PONDER_DRIVE_THREAD, 0, 0); }
static void one_call_fails_in_a_host_driven_runtime(void) {
  fail_at_any_call(PONDER_DRIVE_HOST, 0, 0);
}
static void one_call_fails_while_a_model_drafts(void) {
  with_draft_model = 1;
  fail_at_any_call(PONDER_DRIVE_HOST, 0, 0);
  with_draft_model = 0;
}
static void all_calls_fail_from_then_on(void) { fail_at_any_call(PONDER_DRIVE_THREAD, 1, 0); }

/* A minute's work, so only when asked for by name. */
static void every_call_fails_in_turn(void) {
  fail_at_any_call(PONDER_DRIVE_THREAD, 0, 1);
  fail_at_any_call(PONDER_DRIVE_HOST, 0, 1);
}

int main(int argc, char **argv) {
  harness_begin(argc, argv);
  RUN(one_call_fails);
  RUN(one_call_fails_in_a_host_driven_runtime);
  RUN(one_call_fails_while_a_model_drafts);
  RUN(all_calls_fail_from_then_on);
  if (argc > 1) RUN(every_call_fails_in_turn);
  return harness_end();
}
