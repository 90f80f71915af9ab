/* A mixture of experts whose experts are read while it generates: the same text within a bounded
 * memory, and a disk that fails in mid-generation. */
#include <fcntl.h>
#include <sys/stat.h>

#include "tests/capi/common.h"

#define WANTED 24

/* ---- the host's services ------------------------------------------------------------------------
 */

typedef struct host {
  pthread_mutex_t mutex;
  size_t live, peak; /* bytes of large memory */
  long reads;
  int broken; /* files cannot be read */
} host;

static void *host_alloc(void *user, size_t size, size_t align) {
  host *h = user;
  void *p = NULL;
  if (posix_memalign(&p, align < 64 ? 64 : align, size) != 0) return NULL;
  pthread_mutex_lock(&h->mutex);
  h->live += size;
  if (h->live > h->peak) h->peak = h->live;
  pthread_mutex_unlock(&h->mutex);
  return p;
}
static void host_free(void *user, void *p, size_t size, size_t align) {
  host *h = user;
  (void)align;
  pthread_mutex_lock(&h->mutex);
  h->live -= size;
  pthread_mutex_unlock(&h->mutex);
  free(p);
}
static int open_file(const char *name) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", kMixtureModel, name);
  return open(path, O_RDONLY);
}
static ponder_status host_size(void *user, const char *name, uint64_t *size) {
  struct stat info;
  const int fd = open_file(name);
  (void)user;
  if (fd < 0) return PONDER_ERR_NOT_FOUND;
  *size = fstat(fd, &info) == 0 ? (uint64_t)info.st_size : 0;
  close(fd);
  return PONDER_OK;
}
static ponder_status host_read(void *user, const char *name, uint64_t offset, void *dst, size_t n) {
  host *h = user;
  const int fd = open_file(name);
  ssize_t got = -1;
  int broken;
  pthread_mutex_lock(&h->mutex);
  ++h->reads;
  broken = h->broken;
  pthread_mutex_unlock(&h->mutex);
  if (fd >= 0 && !broken) got = pread(fd, dst, n, (off_t)offset);
  if (fd >= 0) close(fd);
  return got == (ssize_t)n ? PONDER_OK : PONDER_ERR_IO;
}
static void host_close(void *user) { (void)user; }

static void set_broken(host *h, int broken) {
  pthread_mutex_lock(&h->mutex);
  h->broken = broken;
  pthread_mutex_unlock(&h->mutex);
}

typedef struct loaded {
  host services;
  ponder_runtime *runtime;
  ponder_model *model;
} loaded;

static int load(loaded *l, uint64_t expert_bytes, int with_io) {
  ponder_runtime_options *ro = NULL;
  ponder_model_options *mo = NULL;
  ponder_allocator memory;
  ponder_io io;
  ponder_error *err = NULL;
  ponder_status st;
  memset(l, 0, sizeof *l);
  pthread_mutex_init(&l->services.mutex, NULL);
  memory.user = &l->services, memory.alloc = host_alloc, memory.free = host_free;
  memset(&io, 0, sizeof io);
  io.user = &l->services, io.size = host_size, io.read = host_read, io.close = host_close;
  CHECK_OK(ponder_runtime_options_create(&ro));
  CHECK_OK(ponder_runtime_options_set_threads(ro, 2));
  CHECK_OK(ponder_runtime_options_set_allocator(ro, &memory, sizeof memory));
  CHECK_OK(ponder_runtime_create(ro, &l->runtime, NULL));
  ponder_runtime_options_destroy(ro);
  CHECK_OK(ponder_model_options_create(&mo));
  CHECK_OK(ponder_model_options_set_context(mo, 256));
  CHECK_OK(ponder_model_options_set_kv_bytes(mo, 4 << 20));
  CHECK_OK(ponder_model_options_set_expert_bytes(mo, expert_bytes));
  st = with_io ? ponder_model_load_io(l->runtime, &io, sizeof io, mo, &l->model, &err)
               : ponder_model_load(l->runtime, kMixtureModel, mo, &l->model, &err);
  ponder_model_options_destroy(mo);
  if (st != PONDER_OK) harness_status(__FILE__, __LINE__, "load", st, PONDER_OK);
  ponder_error_destroy(err);
  return st == PONDER_OK;
}
static void unload(loaded *l) {
  ponder_model_release(l->model);
  ponder_runtime_release(l->runtime);
  CHECK(l->services.live == 0);
}

static ponder_request *prompt(uint32_t wanted) {
  static const ponder_token tokens[] = {2, 77, 130, 555, 31, 402, 9, 268, 19, 600, 45};
  ponder_request *r = NULL;
  CHECK_OK(ponder_request_create(&r));
  CHECK_OK(ponder_request_set_tokens(r, tokens, sizeof tokens / sizeof *tokens));
  CHECK_OK(ponder_request_set_temperature(r, 0));
  CHECK_OK(ponder_request_set_ignore_eos(r, 1));
  CHECK_OK(ponder_request_set_max_tokens(r, wanted));
  return r;
}

static void generate(ponder_model *m, transcript *t) {
  ponder_session *s = NULL;
  ponder_request *r = prompt(WANTED);
  CHECK_OK(ponder_session_create(m, &s, NULL));
  run_request(s, r, t);
  ponder_request_destroy(r);
  ponder_session_destroy(s);
}

static ponder_stats stats_of(const ponder_model *m) {
  ponder_stats stats;
  CHECK_OK(ponder_model_get_stats(m, &stats, sizeof stats));
  return stats;
}

static int same_tokens(const transcript *a, const transcript *b) {
  return a->all_count == b->all_count && a->all_count == WANTED &&
         memcmp(a->all, b->all, a->all_count * sizeof *a->all) == 0;
}

/* ---- cases --------------------------------------------------------------------------------------
 */

static void a_budget_changes_the_memory_and_not_the_text(void) {
  loaded all, roomy, tight;
  transcript want, got;
  ponder_stats s;
  uint64_t experts, expert, budget;
  size_t others;
  if (!load(&all, 0, 0)) return;
  generate(all.model, &want);
  s = stats_of(all.model);
  CHECK(s.expert_bytes == 0 && s.expert_bytes_used == 0 && s.expert_misses == 0);
  unload(&all);

  if (!load(&roomy, 1 << 30, 0)) return;
  CHECK(stats_of(roomy.model).expert_misses == 0); /* nothing is read before it is chosen */
  generate(roomy.model, &got);
  CHECK(same_tokens(&got, &want));
  s = stats_of(roomy.model);
  experts = s.expert_bytes_used;
  CHECK(s.expert_bytes == 1 << 30 && s.expert_misses > 0 && s.expert_hits > s.expert_misses);
  CHECK(s.expert_bytes_read > 0);
  expert = experts / s.expert_misses; /* all of one size */
  others = roomy.services.peak - (size_t)experts;
  unload(&roomy);

  /* A fifth of what was wanted; then one expert at a time. */
  for (budget = experts / 5; budget != 0; budget = budget > expert ? expert : 0) {
    if (!load(&tight, budget, 0)) return;
    generate(tight.model, &got);
    CHECK(same_tokens(&got, &want));
    s = stats_of(tight.model);
    CHECK(s.expert_bytes == budget && s.expert_bytes_used <= budget);
    CHECK(s.expert_misses > 3 * experts / expert);
    CHECK(s.expert_bytes_read > 3 * experts / 2);
    /* The budget, and a constant: four experts as they are stored. */
    CHECK(tight.services.peak <= others + budget + 4 * expert);
    unload(&tight);
  }
}

static void a_budget_below_one_expert_is_refused(void) {
  ponder_model_options *mo = NULL;
  ponder_runtime *rt = NULL;
  ponder_model *m = NULL;
  ponder_error *err = NULL;
  ponder_status code;
  ponder_str words;
  char text[600];
  CHECK_OK(ponder_runtime_create(NULL, &rt, NULL));
  CHECK_OK(ponder_model_options_create(&mo));
  CHECK_OK(ponder_model_options_set_expert_bytes(mo, 1000));
  CHECK_STATUS(ponder_model_load(rt, kMixtureModel, mo, &m, &err), PONDER_ERR_OUT_OF_MEMORY);
  ponder_error_get(err, &code, &words);
  snprintf(text, sizeof text, "%.*s", (int)words.size, words.data);
  CHECK(words.size > 20 && strstr(text, "1000") != NULL);
  ponder_error_destroy(err);
  ponder_model_options_destroy(mo);
  ponder_runtime_release(rt);
}

static void a_disk_that_fails_ends_the_step_and_nothing_else(void) {
  loaded l;
  transcript want, got;
  ponder_session *first = NULL, *second = NULL;
  ponder_request *r = prompt(200), *short_one = prompt(WANTED);
  ponder_generation *g = NULL;
  int pulled;
  if (!load(&l, 250000, 1)) return;
  generate(l.model, &want);
  CHECK_OK(ponder_session_create(l.model, &first, NULL));
  CHECK_OK(ponder_session_create(l.model, &second, NULL));

  memset(&got, 0, sizeof got);
  CHECK_OK(ponder_session_submit(first, r, &g, NULL));
  for (pulled = 0; pulled < 3; ++pulled) {
    CHECK(ponder_generation_wait(g, 10000000) == PONDER_OK);
    pull(g, &got);
  }
  CHECK(!got.finished);
  set_broken(&l.services, 1);
  pull_all(g, &got);
  CHECK_STATUS(got.last, PONDER_ERR_IO);
  CHECK(strstr(got.error, "read") != NULL);
  ponder_generation_destroy(g);
  /* As long as the disk is gone, so are generations; and they say so. */
  run_request(second, short_one, &got);
  CHECK_STATUS(got.last, PONDER_ERR_IO);

  set_broken(&l.services, 0);
  run_request(second, short_one, &got);
  CHECK(same_tokens(&got, &want));
  run_request(first, short_one, &got);
  CHECK(same_tokens(&got, &want));

  ponder_request_destroy(r);
  ponder_request_destroy(short_one);
  ponder_session_destroy(first);
  ponder_session_destroy(second);
  unload(&l);
}

int main(int argc, char **argv) {
  struct stat info;
  harness_begin(argc, argv);
  if (stat(kMixtureModel, &info) != 0) {
    printf("# no reference data at %s\n", kMixtureModel);
    return 77;
  }
  RUN(a_budget_changes_the_memory_and_not_the_text);
  RUN(a_budget_below_one_expert_is_refused);
  RUN(a_disk_that_fails_ends_the_step_and_nothing_else);
  return harness_end();
}
