/* The library as a plug-in: loaded, used and let go of by a program that is not linked to it.
 * Usage: dlopen_test libponder.so [case] */
#include <dlfcn.h>

#include "tests/capi/common.h"

static const char *library;

typedef struct api {
  void *handle;
  ponder_status (*runtime_create)(const ponder_runtime_options *, ponder_runtime **,
                                  ponder_error **);
  void (*runtime_release)(ponder_runtime *);
  ponder_status (*model_load)(ponder_runtime *, const char *, const ponder_model_options *,
                              ponder_model **, ponder_error **);
  void (*model_release)(ponder_model *);
  ponder_status (*session_create)(ponder_model *, ponder_session **, ponder_error **);
  void (*session_destroy)(ponder_session *);
  ponder_status (*request_create)(ponder_request **);
  void (*request_destroy)(ponder_request *);
  ponder_status (*request_set_text)(ponder_request *, const char *, size_t, int32_t);
  ponder_status (*request_set_max_tokens)(ponder_request *, uint32_t);
  ponder_status (*session_submit)(ponder_session *, const ponder_request *, ponder_generation **,
                                  ponder_error **);
  ponder_status (*generation_next)(ponder_generation *, ponder_event *, size_t, ponder_error **);
  ponder_status (*generation_wait)(ponder_generation *, uint64_t);
  void (*generation_destroy)(ponder_generation *);
} api;

static void get(api *a, const char *name, void *function) {
  void *found = dlsym(a->handle, name);
  if (found == NULL) printf("# %s\n", dlerror());
  CHECK(found != NULL);
  memcpy(function, &found, sizeof found);
}
static int open_api(api *a) {
  memset(a, 0, sizeof *a);
  a->handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
  if (a->handle == NULL) printf("# %s\n", dlerror());
  CHECK(a->handle != NULL);
  if (a->handle == NULL) return 0;
  get(a, "ponder_runtime_create", &a->runtime_create);
  get(a, "ponder_runtime_release", &a->runtime_release);
  get(a, "ponder_model_load", &a->model_load);
  get(a, "ponder_model_release", &a->model_release);
  get(a, "ponder_session_create", &a->session_create);
  get(a, "ponder_session_destroy", &a->session_destroy);
  get(a, "ponder_request_create", &a->request_create);
  get(a, "ponder_request_destroy", &a->request_destroy);
  get(a, "ponder_request_set_text", &a->request_set_text);
  get(a, "ponder_request_set_max_tokens", &a->request_set_max_tokens);
  get(a, "ponder_session_submit", &a->session_submit);
  get(a, "ponder_generation_next", &a->generation_next);
  get(a, "ponder_generation_wait", &a->generation_wait);
  get(a, "ponder_generation_destroy", &a->generation_destroy);
  return harness_failed_checks == 0;
}

static void use(api *a) {
  ponder_runtime *rt = NULL;
  ponder_model *m = NULL;
  ponder_session *s = NULL;
  ponder_request *r = NULL;
  ponder_generation *g = NULL;
  ponder_event ev;
  ponder_status st;
  int finished = 0;
  CHECK(a->runtime_create(NULL, &rt, NULL) == PONDER_OK);
  CHECK(a->model_load(rt, kCountdownModel, NULL, &m, NULL) == PONDER_OK);
  CHECK(a->session_create(m, &s, NULL) == PONDER_OK);
  CHECK(a->request_create(&r) == PONDER_OK);
  CHECK(a->request_set_text(r, "I need 22", PONDER_STRLEN, 0) == PONDER_OK);
  CHECK(a->request_set_max_tokens(r, 5) == PONDER_OK);
  CHECK(a->session_submit(s, r, &g, NULL) == PONDER_OK);
  do {
    a->generation_wait(g, PONDER_FOREVER);
    while ((st = a->generation_next(g, &ev, sizeof ev, NULL)) == PONDER_OK)
      finished += ev.kind == PONDER_EVENT_FINISHED;
  } while (st == PONDER_PENDING);
  CHECK(st == PONDER_DONE && finished == 1);
  a->generation_destroy(g);
  a->request_destroy(r);
  a->session_destroy(s);
  a->model_release(m);
  a->runtime_release(rt);
}

static void opened_used_and_closed_again_and_again(void) {
  int i;
  for (i = 0; i < 3; ++i) {
    api a;
    if (!open_api(&a)) return;
    use(&a);
    CHECK(dlclose(a.handle) == 0);
  }
}

static pthread_barrier_t barrier;
static void *use_and_stay(void *arg) {
  use(arg);
  pthread_barrier_wait(&barrier); /* used */
  pthread_barrier_wait(&barrier); /* closed: this thread ends afterwards */
  return NULL;
}

/* What the library left with a thread must be harmless when the thread ends after the library. */
static void threads_may_end_after_the_library_was_closed(void) {
  api a;
  pthread_t thread;
  if (!open_api(&a)) return;
  pthread_barrier_init(&barrier, NULL, 2);
  thread = spawn(use_and_stay, &a);
  pthread_barrier_wait(&barrier);
  CHECK(dlclose(a.handle) == 0);
  pthread_barrier_wait(&barrier);
  pthread_join(thread, NULL);
  pthread_barrier_destroy(&barrier);
}

/* Linux names threads below /proc/self/task. */
static int thread_count(void) {
  char line[256];
  int n = -1;
  FILE *f = fopen("/proc/self/status", "r");
  if (f == NULL) return -1;
  while (fgets(line, sizeof line, f) != NULL) sscanf(line, "Threads: %d", &n);
  fclose(f);
  return n;
}
static void no_thread_is_left_when_all_handles_are_gone(void) {
  api a;
  const int before = thread_count();
  if (!open_api(&a)) return;
  use(&a);
  CHECK(thread_count() == before);
  CHECK(dlclose(a.handle) == 0);
}

int main(int argc, char **argv) {
  if (argc < 2) return 2;
  library = argv[1];
  harness_begin(argc - 1, argv + 1);
  RUN(opened_used_and_closed_again_and_again);
  RUN(threads_may_end_after_the_library_was_closed);
  RUN(no_thread_is_left_when_all_handles_are_gone);
  return harness_end();
}
