/* Hosts whose services fail: the allocator at its n-th call, the files at their n-th, and files
 * that lie. Each time: a clear status with words, and everything given back. */
#include "tests/capi/common.h"
#include "tests/capi/countdown_golden.inc"

/* ---- memory -----------------------------------------------------------------------------------
 */

typedef struct memory {
  pthread_mutex_t mutex;
  long calls, fail_at; /* the fail_at-th call fails; with `stays`, so do all after it */
  int stays, misaligned;
  long live, wrong;
  size_t live_bytes;
} memory;

static void *counted_alloc(void *user, size_t size, size_t align) {
  memory *m = user;
  void *p = NULL;
  int fails;
  pthread_mutex_lock(&m->mutex);
  ++m->calls;
  fails = m->fail_at != 0 && (m->calls == m->fail_at || (m->stays && m->calls > m->fail_at));
  if (size == 0 || align == 0 || (align & (align - 1)) != 0) ++m->wrong;
  pthread_mutex_unlock(&m->mutex);
  if (fails) return NULL;
  if (posix_memalign(&p, align < 64 ? 64 : align, size + 64) != 0) return NULL;
  if (m->misaligned) p = (char *)p + 1;
  pthread_mutex_lock(&m->mutex);
  ++m->live, m->live_bytes += size;
  pthread_mutex_unlock(&m->mutex);
  return p;
}
static void counted_free(void *user, void *p, size_t size, size_t align) {
  memory *m = user;
  (void)align;
  pthread_mutex_lock(&m->mutex);
  --m->live, m->live_bytes -= size;
  if (p == NULL) ++m->wrong;
  pthread_mutex_unlock(&m->mutex);
  free(m->misaligned ? (char *)p - 1 : p);
}

/* Loads and answers with `m`; the first failure, or OK. */
static ponder_status load_and_answer(memory *m, transcript *t) {
  ponder_allocator table;
  ponder_runtime_options *ro = NULL;
  ponder_runtime *rt = NULL;
  ponder_model *model = NULL;
  ponder_session *s = NULL;
  ponder_request *r = ask(goldens[0].message);
  ponder_generation *g = NULL;
  ponder_error *err = NULL;
  ponder_status st, told = PONDER_OK;
  ponder_str words = {NULL, 0};
  table.user = m, table.alloc = counted_alloc, table.free = counted_free;
  memset(t, 0, sizeof *t);
  CHECK_OK(ponder_request_set_temperature(r, 0));
  CHECK_OK(ponder_runtime_options_create(&ro));
  CHECK_OK(ponder_runtime_options_set_threads(ro, 1));
  CHECK_OK(ponder_runtime_options_set_allocator(ro, &table, sizeof table));
  st = ponder_runtime_create(ro, &rt, &err);
  if (st == PONDER_OK) st = ponder_model_load(rt, kCountdownModel, NULL, &model, &err);
  if (st == PONDER_OK) st = ponder_session_create(model, &s, &err);
  if (st == PONDER_OK) st = ponder_session_submit(s, r, &g, &err);
  if (st == PONDER_OK) {
    pull_all(g, t);
    st = t->last == PONDER_DONE ? PONDER_OK : t->last;
  } else {
    ponder_error_get(err, &told, &words);
    CHECK_STATUS(told, st);
    CHECK(words.size > 20); /* what, which, how much */
  }
  ponder_error_destroy(err);
  ponder_generation_destroy(g);
  ponder_request_destroy(r);
  ponder_session_destroy(s);
  ponder_model_release(model);
  ponder_runtime_release(rt);
  ponder_runtime_options_destroy(ro);
  return st;
}

static void check_memory(const memory *m) {
  CHECK(m->live == 0 && m->live_bytes == 0);
  CHECK(m->wrong == 0);
}

static void the_host_s_memory_is_used_and_given_back(void) {
  memory m = {PTHREAD_MUTEX_INITIALIZER, 0, 0, 0, 0, 0, 0, 0};
  transcript t;
  CHECK_OK(load_and_answer(&m, &t));
  check_whole(&t);
  CHECK(m.calls > 0);
  check_memory(&m);
}

static void an_allocator_that_fails_at_any_call(int stays) {
  ponder_status st = PONDER_ERR_OUT_OF_MEMORY;
  long n;
  for (n = 1; st != PONDER_OK && n < 5000; ++n) {
    memory m = {PTHREAD_MUTEX_INITIALIZER, 0, 0, 0, 0, 0, 0, 0};
    transcript t;
    m.fail_at = n, m.stays = stays;
    st = load_and_answer(&m, &t);
    if (m.calls < n) break; /* it never came to the n-th */
    if (st != PONDER_OK) CHECK_STATUS(st, PONDER_ERR_OUT_OF_MEMORY);
    check_memory(&m);
  }
  printf("# %ld failing calls tried\n", n - 1);
  CHECK_OK(st);
  CHECK(n > 2);
}
static void an_allocator_that_fails_once(void) { an_allocator_that_fails_at_any_call(0); }
static void an_allocator_that_fails_from_then_on(void) { an_allocator_that_fails_at_any_call(1); }

static void memory_that_is_not_aligned_is_refused(void) {
  memory m = {PTHREAD_MUTEX_INITIALIZER, 0, 0, 0, 1, 0, 0, 0};
  transcript t;
  CHECK_INVALID(load_and_answer(&m, &t));
  check_memory(&m);
}

/* ---- files ------------------------------------------------------------------------------------
 */

typedef struct file {
  const char *name;
  unsigned char *data;
  uint64_t size;
} file;
static file files[] = {{"config.json", NULL, 0},
                       {"generation_config.json", NULL, 0},
                       {"model.safetensors", NULL, 0},
                       {"tokenizer.json", NULL, 0},
                       {"tokenizer_config.json", NULL, 0}};
enum { FILES = 5 };

static int read_files(void) {
  int i;
  for (i = 0; i < FILES; ++i) {
    char path[1024];
    FILE *f;
    long size;
    snprintf(path, sizeof path, "%s/%s", kCountdownModel, files[i].name);
    f = fopen(path, "rb");
    if (f == NULL || fseek(f, 0, SEEK_END) != 0 || (size = ftell(f)) < 0) return 0;
    rewind(f);
    files[i].data = malloc((size_t)size);
    files[i].size = (uint64_t)size;
    if (files[i].data == NULL || fread(files[i].data, 1, (size_t)size, f) != (size_t)size) return 0;
    fclose(f);
  }
  return 1;
}

typedef struct disk {
  pthread_mutex_t mutex;
  long calls, fail_at;
  ponder_status failure;
  int closed, used_after_close, bad_names, maps;
  const char *lie_about;  /* a file ... */
  int64_t size_change;    /* ... whose size is told wrong by this ... */
  int silent;             /* ... or whose reads give nothing */
  unsigned char *mapping; /* of model.safetensors, if map is offered */
} disk;

static const file *find(disk *d, const char *name) {
  int i;
  if (strchr(name, '/') != NULL) d->bad_names = 1;
  for (i = 0; i < FILES; ++i)
    if (strcmp(files[i].name, name) == 0) return &files[i];
  return NULL;
}
static int fails_now(disk *d) {
  int fails;
  pthread_mutex_lock(&d->mutex);
  if (d->closed) d->used_after_close = 1;
  fails = ++d->calls == d->fail_at;
  pthread_mutex_unlock(&d->mutex);
  return fails;
}
static ponder_status disk_size(void *user, const char *name, uint64_t *size) {
  disk *d = user;
  const file *f = find(d, name);
  if (fails_now(d)) return d->failure;
  if (f == NULL) return PONDER_ERR_NOT_FOUND;
  *size = f->size;
  if (d->lie_about != NULL && strcmp(d->lie_about, name) == 0)
    *size = (uint64_t)((int64_t)f->size + d->size_change);
  return PONDER_OK;
}
static ponder_status disk_read(void *user, const char *name, uint64_t offset, void *dst, size_t n) {
  disk *d = user;
  const file *f = find(d, name);
  if (fails_now(d)) return d->failure;
  if (f == NULL) return PONDER_ERR_NOT_FOUND;
  if (d->silent && d->lie_about != NULL && strcmp(d->lie_about, name) == 0) return PONDER_OK;
  if (offset > f->size || n > f->size - offset) return PONDER_ERR_IO;
  memcpy(dst, f->data + offset, n);
  return PONDER_OK;
}
static const void *disk_map(void *user, const char *name) {
  disk *d = user;
  const file *f = find(d, name);
  if (f == NULL || strcmp(name, "model.safetensors") != 0) return NULL;
  ++d->maps;
  return d->mapping;
}
static void disk_close(void *user) { ++((disk *)user)->closed; }

/* Loads from `d` and, if that works, answers. Checks that close came exactly once and last. */
static ponder_status load_from(disk *d, transcript *t) {
  ponder_io io;
  ponder_runtime *rt = NULL;
  ponder_runtime_options *ro = NULL;
  ponder_model *m = NULL;
  ponder_session *s = NULL;
  ponder_request *r = NULL;
  ponder_error *err = NULL;
  ponder_status st, told;
  ponder_str words;
  memset(&io, 0, sizeof io);
  io.user = d, io.size = disk_size, io.read = disk_read, io.close = disk_close;
  if (d->mapping != NULL) io.map = disk_map;
  CHECK_OK(ponder_runtime_options_create(&ro));
  CHECK_OK(ponder_runtime_options_set_threads(ro, 1));
  CHECK_OK(ponder_runtime_create(ro, &rt, NULL));
  ponder_runtime_options_destroy(ro);
  st = ponder_model_load_io(rt, &io, sizeof io, NULL, &m, &err);
  if (st == PONDER_OK) {
    r = ask(goldens[0].message);
    CHECK_OK(ponder_request_set_temperature(r, 0));
    CHECK_OK(ponder_session_create(m, &s, NULL));
    run_request(s, r, t);
    ponder_session_destroy(s);
    ponder_request_destroy(r);
  } else {
    ponder_error_get(err, &told, &words);
    CHECK_STATUS(told, st);
    CHECK(words.size > 20 && m == NULL);
    CHECK(d->closed == 1);
  }
  ponder_error_destroy(err);
  ponder_model_release(m);
  ponder_runtime_release(rt);
  CHECK(d->closed == 1 && !d->used_after_close && !d->bad_names);
  return st;
}

static disk new_disk(void) {
  disk d;
  memset(&d, 0, sizeof d);
  pthread_mutex_init(&d.mutex, NULL);
  return d;
}

static void a_model_loads_from_the_host_s_files(void) {
  disk d = new_disk();
  transcript t;
  CHECK_OK(load_from(&d, &t));
  check_whole(&t);
  CHECK(t.answer[0] != 0);
}

static void a_mapping_is_used_wherever_it_lies(void) {
  size_t shift;
  for (shift = 0; shift < 3; ++shift) {
    disk d = new_disk();
    unsigned char *copy = malloc((size_t)files[2].size + 8);
    transcript t;
    REQUIRE(copy != NULL);
    memcpy(copy + shift, files[2].data, (size_t)files[2].size);
    d.mapping = copy + shift;
    CHECK_OK(load_from(&d, &t));
    check_whole(&t);
    CHECK(t.answer[0] != 0 && d.maps > 0);
    free(copy);
  }
}

static void files_that_fail_at_any_call(void) {
  long n = 0, whole;
  disk counting = new_disk();
  transcript t;
  CHECK_OK(load_from(&counting, &t));
  whole = counting.calls;
  REQUIRE(whole >= FILES);
  for (n = 1; n <= whole; ++n) {
    disk d = new_disk();
    d.fail_at = n, d.failure = PONDER_ERR_IO;
    CHECK_STATUS(load_from(&d, &t), PONDER_ERR_IO);
  }
  printf("# %ld failing calls tried\n", whole);
}

static void a_callback_s_own_status_comes_back(void) {
  static const ponder_status given[] = {
      PONDER_ERR_CANCELLED, PONDER_ERR_DEVICE,  PONDER_ERR_OUT_OF_MEMORY,
      PONDER_ERR_BUSY,      PONDER_ERR_CORRUPT, -1000,
      PONDER_PENDING};
  static const ponder_status expected[] = {
      PONDER_ERR_CANCELLED, PONDER_ERR_DEVICE,  PONDER_ERR_OUT_OF_MEMORY,
      PONDER_ERR_BUSY,      PONDER_ERR_CORRUPT, PONDER_ERR_IO,
      PONDER_ERR_IO};
  size_t i;
  for (i = 0; i < sizeof given / sizeof *given; ++i) {
    long n;
    for (n = 1; n <= 7; n += 3) {
      disk d = new_disk();
      transcript t;
      d.fail_at = n, d.failure = given[i];
      CHECK_STATUS(load_from(&d, &t), expected[i]);
    }
  }
}

static void files_that_lie_about_their_size(void) {
  static const int64_t changes[] = {-1, -100, 1, 100, INT64_MAX / 2, INT64_MIN / 2};
  int i, k;
  for (i = 0; i < FILES; ++i) {
    for (k = 0; k < 6; ++k) {
      disk d = new_disk();
      transcript t;
      ponder_status st;
      d.lie_about = files[i].name, d.size_change = changes[k];
      st = load_from(&d, &t);
      CHECK(st < 0 && st != PONDER_ERR_INTERNAL);
    }
  }
}

static void files_that_read_as_nothing(void) {
  int i;
  for (i = 0; i < FILES; ++i) {
    disk d = new_disk();
    transcript t;
    ponder_status st;
    d.lie_about = files[i].name, d.silent = 1;
    st = load_from(&d, &t);
    /* The weights' header is read; whether the weights themselves were is not to be seen: zeroes or
     * what was in memory are weights, too. All else is text and must parse. */
    CHECK(st < 0 && st != PONDER_ERR_INTERNAL);
  }
}

static void files_that_are_missing(void) {
  static const int needed[FILES] = {1, 0, 1, 1, 0};
  int i;
  for (i = 0; i < FILES; ++i) {
    disk d = new_disk();
    const char *name = files[i].name;
    transcript t;
    ponder_status st;
    files[i].name = "elsewhere";
    memset(&t, 0, sizeof t);
    /* Without its template the model loads, but a chat cannot be asked. */
    if (needed[i]) {
      st = load_from(&d, &t);
      CHECK_STATUS(st, PONDER_ERR_NOT_FOUND);
    } else if (i == 1) {
      CHECK_OK(load_from(&d, &t));
    }
    files[i].name = name;
  }
}

/* ---- logs -------------------------------------------------------------------------------------
 */

typedef struct log_book {
  int lines, too_low, not_lines;
  int32_t min_level;
} log_book;
static void write_log(void *user, int32_t level, const char *text, size_t size) {
  log_book *b = user;
  __atomic_add_fetch(&b->lines, 1, __ATOMIC_SEQ_CST);
  if (level < b->min_level || level > PONDER_LOG_ERROR) b->too_low = 1;
  if (size == 0 || memchr(text, '\n', size) != NULL) b->not_lines = 1;
}

static void logs_are_lines_of_the_level_asked_for(void) {
  int32_t level;
  for (level = PONDER_LOG_DEBUG; level <= PONDER_LOG_ERROR; ++level) {
    log_book b = {0, 0, 0, 0};
    ponder_runtime_options *ro = NULL;
    ponder_runtime *rt = NULL;
    ponder_model *m = NULL;
    b.min_level = level;
    CHECK_OK(ponder_runtime_options_create(&ro));
    CHECK_OK(ponder_runtime_options_set_log(ro, write_log, &b, level));
    CHECK_OK(ponder_runtime_create(ro, &rt, NULL));
    CHECK_OK(ponder_model_load(rt, kCountdownModel, NULL, &m, NULL));
    ponder_model_release(m);
    ponder_runtime_release(rt);
    ponder_runtime_options_destroy(ro);
    CHECK(!b.too_low && !b.not_lines);
    if (level == PONDER_LOG_ERROR) CHECK(b.lines == 0); /* nothing went wrong */
  }
}

int main(int argc, char **argv) {
  harness_begin(argc, argv);
  if (!read_files()) {
    printf("not ok - %s cannot be read\n", kCountdownModel);
    return 1;
  }
  RUN(the_host_s_memory_is_used_and_given_back);
  RUN(an_allocator_that_fails_once);
  RUN(an_allocator_that_fails_from_then_on);
  RUN(memory_that_is_not_aligned_is_refused);
  RUN(a_model_loads_from_the_host_s_files);
  RUN(a_mapping_is_used_wherever_it_lies);
  RUN(files_that_fail_at_any_call);
  RUN(a_callback_s_own_status_comes_back);
  RUN(files_that_lie_about_their_size);
  RUN(files_that_read_as_nothing);
  RUN(files_that_are_missing);
  RUN(logs_are_lines_of_the_level_asked_for);
  {
    int i;
    for (i = 0; i < FILES; ++i) free(files[i].data);
  }
  return harness_end();
}
