/* The layout of every struct that crosses the border, pinned: an offset that moves breaks programs
 * that exist. Fields are only ever added at the end; then a row is added here and none changes.
 * The numbers are those of 64-bit systems, which are the ones we build for. */
#include "tests/capi/harness.h"

typedef struct row {
  const char *what;
  size_t is, must_be;
} row;

#define OFFSET(type, field, expected) \
  { #type "." #field, offsetof(type, field), expected }
#define SIZE(type, expected) \
  { "sizeof " #type, sizeof(type), expected }

static const row rows[] = {
    SIZE(ponder_status, 4),
    SIZE(ponder_token, 4),
    SIZE(ponder_str, 16), /* frozen: it is part of other structs */
    OFFSET(ponder_str, data, 0),
    OFFSET(ponder_str, size, 8),

    SIZE(ponder_allocator, 24),
    OFFSET(ponder_allocator, user, 0),
    OFFSET(ponder_allocator, alloc, 8),
    OFFSET(ponder_allocator, free, 16),

    SIZE(ponder_thread_pool, 24),
    OFFSET(ponder_thread_pool, user, 0),
    OFFSET(ponder_thread_pool, concurrency, 8),
    OFFSET(ponder_thread_pool, reserved, 12),
    OFFSET(ponder_thread_pool, parallel_for, 16),

    SIZE(ponder_io, 40),
    OFFSET(ponder_io, user, 0),
    OFFSET(ponder_io, size, 8),
    OFFSET(ponder_io, read, 16),
    OFFSET(ponder_io, map, 24),
    OFFSET(ponder_io, close, 32),

    SIZE(ponder_device_info, 56),
    OFFSET(ponder_device_info, backend, 0),
    OFFSET(ponder_device_info, name, 16),
    OFFSET(ponder_device_info, memory_total, 32),
    OFFSET(ponder_device_info, memory_free, 40),
    OFFSET(ponder_device_info, kind, 48),
    OFFSET(ponder_device_info, index, 52),

    SIZE(ponder_model_needs, 144),
    OFFSET(ponder_model_needs, parameters, 0),
    OFFSET(ponder_model_needs, weight_bytes, 8),
    OFFSET(ponder_model_needs, attention_bytes, 16),
    OFFSET(ponder_model_needs, feed_forward_bytes, 24),
    OFFSET(ponder_model_needs, expert_bytes, 32),
    OFFSET(ponder_model_needs, other_bytes, 40),
    OFFSET(ponder_model_needs, token_bytes, 48),
    OFFSET(ponder_model_needs, kv_bytes, 56),
    OFFSET(ponder_model_needs, kv_bytes_per_1000, 64),
    OFFSET(ponder_model_needs, scratch_bytes, 72),
    OFFSET(ponder_model_needs, memory_total, 80),
    OFFSET(ponder_model_needs, memory_free, 88),
    OFFSET(ponder_model_needs, expert_budget, 96),
    OFFSET(ponder_model_needs, layers, 104),
    OFFSET(ponder_model_needs, experts, 108),
    OFFSET(ponder_model_needs, experts_chosen, 112),
    OFFSET(ponder_model_needs, context, 116),
    OFFSET(ponder_model_needs, trained_context, 120),
    OFFSET(ponder_model_needs, fits, 124),
    OFFSET(ponder_model_needs, host_layers, 128),
    OFFSET(ponder_model_needs, host_expert_layers, 132),
    OFFSET(ponder_model_needs, vram_bytes, 136),

    SIZE(ponder_model_info, 184),
    OFFSET(ponder_model_info, architecture, 0),
    OFFSET(ponder_model_info, name, 16),
    OFFSET(ponder_model_info, fingerprint, 32),
    OFFSET(ponder_model_info, thought_open, 48),
    OFFSET(ponder_model_info, thought_close, 64),
    OFFSET(ponder_model_info, eos_tokens, 80),
    OFFSET(ponder_model_info, parameters, 88),
    OFFSET(ponder_model_info, weight_bytes, 96),
    OFFSET(ponder_model_info, kv_bytes, 104),
    OFFSET(ponder_model_info, kv_bytes_per_1000, 112),
    OFFSET(ponder_model_info, eos_count, 120),
    OFFSET(ponder_model_info, vocabulary, 124),
    OFFSET(ponder_model_info, context, 128),
    OFFSET(ponder_model_info, trained_context, 132),
    OFFSET(ponder_model_info, layers, 136),
    OFFSET(ponder_model_info, device, 140),
    OFFSET(ponder_model_info, kv_type, 144),
    OFFSET(ponder_model_info, precision, 148),
    OFFSET(ponder_model_info, reasons, 152),
    OFFSET(ponder_model_info, has_template, 156),
    OFFSET(ponder_model_info, top_k, 160),
    OFFSET(ponder_model_info, temperature, 164),
    OFFSET(ponder_model_info, top_p, 168),
    OFFSET(ponder_model_info, min_p, 172),
    OFFSET(ponder_model_info, repeat_penalty, 176),
    OFFSET(ponder_model_info, has_draft_layer, 180),

    SIZE(ponder_event, 120),
    OFFSET(ponder_event, kind, 0),
    OFFSET(ponder_event, finish, 4),
    OFFSET(ponder_event, text, 8),
    OFFSET(ponder_event, name, 24),
    OFFSET(ponder_event, id, 40),
    OFFSET(ponder_event, tokens, 56),
    OFFSET(ponder_event, logprobs, 64),
    OFFSET(ponder_event, top_tokens, 72),
    OFFSET(ponder_event, top_logprobs, 80),
    OFFSET(ponder_event, token_count, 88),
    OFFSET(ponder_event, top_count, 92),
    OFFSET(ponder_event, prompt_tokens, 96),
    OFFSET(ponder_event, cached_tokens, 100),
    OFFSET(ponder_event, done_tokens, 104),
    OFFSET(ponder_event, thought_tokens, 108),
    OFFSET(ponder_event, answer_tokens, 112),

    SIZE(ponder_stats, 160),
    OFFSET(ponder_stats, prompt_tokens, 0),
    OFFSET(ponder_stats, cached_tokens, 8),
    OFFSET(ponder_stats, thought_tokens, 16),
    OFFSET(ponder_stats, answer_tokens, 24),
    OFFSET(ponder_stats, steps, 32),
    OFFSET(ponder_stats, preemptions, 40),
    OFFSET(ponder_stats, kv_bytes, 48),
    OFFSET(ponder_stats, kv_bytes_used, 56),
    OFFSET(ponder_stats, scratch_bytes, 64),
    OFFSET(ponder_stats, prefill_us, 72),
    OFFSET(ponder_stats, decode_us, 80),
    OFFSET(ponder_stats, running, 88),
    OFFSET(ponder_stats, waiting, 92),
    OFFSET(ponder_stats, prefill_tokens_per_s, 96),
    OFFSET(ponder_stats, decode_tokens_per_s, 100),
    OFFSET(ponder_stats, expert_bytes, 104),
    OFFSET(ponder_stats, expert_bytes_used, 112),
    OFFSET(ponder_stats, expert_hits, 120),
    OFFSET(ponder_stats, expert_misses, 128),
    OFFSET(ponder_stats, expert_bytes_read, 136),
    OFFSET(ponder_stats, drafted_tokens, 144),
    OFFSET(ponder_stats, accepted_tokens, 152),
};

/* Constants are part of the ABI as well: compiled into programs, never renumbered. */
static const row constants[] = {
    {"PONDER_OK", (size_t)PONDER_OK, 0},
    {"PONDER_PENDING", (size_t)PONDER_PENDING, 1},
    {"PONDER_DONE", (size_t)PONDER_DONE, 2},
    {"PONDER_ERR_INVALID_ARGUMENT", (size_t)-PONDER_ERR_INVALID_ARGUMENT, 1},
    {"PONDER_ERR_NOT_FOUND", (size_t)-PONDER_ERR_NOT_FOUND, 2},
    {"PONDER_ERR_UNSUPPORTED", (size_t)-PONDER_ERR_UNSUPPORTED, 3},
    {"PONDER_ERR_CORRUPT", (size_t)-PONDER_ERR_CORRUPT, 4},
    {"PONDER_ERR_MISMATCH", (size_t)-PONDER_ERR_MISMATCH, 5},
    {"PONDER_ERR_IO", (size_t)-PONDER_ERR_IO, 6},
    {"PONDER_ERR_OUT_OF_MEMORY", (size_t)-PONDER_ERR_OUT_OF_MEMORY, 7},
    {"PONDER_ERR_CONTEXT_FULL", (size_t)-PONDER_ERR_CONTEXT_FULL, 8},
    {"PONDER_ERR_BUSY", (size_t)-PONDER_ERR_BUSY, 9},
    {"PONDER_ERR_CANCELLED", (size_t)-PONDER_ERR_CANCELLED, 10},
    {"PONDER_ERR_BUFFER_TOO_SMALL", (size_t)-PONDER_ERR_BUFFER_TOO_SMALL, 11},
    {"PONDER_ERR_DEVICE", (size_t)-PONDER_ERR_DEVICE, 12},
    {"PONDER_ERR_INTERNAL", (size_t)-PONDER_ERR_INTERNAL, 13},
    {"PONDER_LOG_DEBUG", PONDER_LOG_DEBUG, 0},
    {"PONDER_LOG_INFO", PONDER_LOG_INFO, 1},
    {"PONDER_LOG_WARNING", PONDER_LOG_WARNING, 2},
    {"PONDER_LOG_ERROR", PONDER_LOG_ERROR, 3},
    {"PONDER_DRIVE_THREAD", PONDER_DRIVE_THREAD, 0},
    {"PONDER_DRIVE_HOST", PONDER_DRIVE_HOST, 1},
    {"PONDER_DEVICE_CPU", PONDER_DEVICE_CPU, 1},
    {"PONDER_DEVICE_GPU", PONDER_DEVICE_GPU, 2},
    {"PONDER_KV_AUTO", PONDER_KV_AUTO, 0},
    {"PONDER_KV_F32", PONDER_KV_F32, 1},
    {"PONDER_KV_BF16", PONDER_KV_BF16, 2},
    {"PONDER_KV_F16", PONDER_KV_F16, 3},
    {"PONDER_KV_Q8_0", PONDER_KV_Q8_0, 4},
    {"PONDER_KV_F8_E4M3", PONDER_KV_F8_E4M3, 5},
    {"PONDER_PRECISION_AUTO", PONDER_PRECISION_AUTO, 0},
    {"PONDER_PRECISION_F32", PONDER_PRECISION_F32, 1},
    {"PONDER_PRECISION_FP8", PONDER_PRECISION_FP8, 2},
    {"PONDER_TOKENIZE_PLAIN", PONDER_TOKENIZE_PLAIN, 0},
    {"PONDER_TOKENIZE_SPECIAL", PONDER_TOKENIZE_SPECIAL, 1},
    {"PONDER_TOKENIZE_ADD_SPECIAL", PONDER_TOKENIZE_ADD_SPECIAL, 2},
    {"PONDER_ROLE_SYSTEM", PONDER_ROLE_SYSTEM, 1},
    {"PONDER_ROLE_USER", PONDER_ROLE_USER, 2},
    {"PONDER_ROLE_ASSISTANT", PONDER_ROLE_ASSISTANT, 3},
    {"PONDER_ROLE_TOOL", PONDER_ROLE_TOOL, 4},
    {"PONDER_REASONING_MODEL", PONDER_REASONING_MODEL, 0},
    {"PONDER_REASONING_OFF", PONDER_REASONING_OFF, 1},
    {"PONDER_REASONING_ON", PONDER_REASONING_ON, 2},
    {"PONDER_SPECULATION_OFF", PONDER_SPECULATION_OFF, 0},
    {"PONDER_SPECULATION_NGRAM", PONDER_SPECULATION_NGRAM, 1},
    {"PONDER_SPECULATION_MTP", PONDER_SPECULATION_MTP, 2},
    {"PONDER_SPECULATION_DRAFT_MODEL", PONDER_SPECULATION_DRAFT_MODEL, 3},
    {"PONDER_EVENT_STARTED", PONDER_EVENT_STARTED, 1},
    {"PONDER_EVENT_PREFILL", PONDER_EVENT_PREFILL, 2},
    {"PONDER_EVENT_THOUGHT", PONDER_EVENT_THOUGHT, 3},
    {"PONDER_EVENT_THOUGHT_END", PONDER_EVENT_THOUGHT_END, 4},
    {"PONDER_EVENT_ANSWER", PONDER_EVENT_ANSWER, 5},
    {"PONDER_EVENT_TOOL_CALL", PONDER_EVENT_TOOL_CALL, 6},
    {"PONDER_EVENT_FINISHED", PONDER_EVENT_FINISHED, 7},
    {"PONDER_FINISH_STOP", PONDER_FINISH_STOP, 1},
    {"PONDER_FINISH_LENGTH", PONDER_FINISH_LENGTH, 2},
    {"PONDER_FINISH_TOOL", PONDER_FINISH_TOOL, 3},
    {"PONDER_FINISH_CANCELLED", PONDER_FINISH_CANCELLED, 4},
    {"PONDER_FINISH_BUDGET", PONDER_FINISH_BUDGET, 5},
    {"PONDER_FINISH_HOST", PONDER_FINISH_HOST, 6},
};

static void check_rows(const row *first, size_t count) {
  size_t i;
  for (i = 0; i < count; ++i) {
    if (first[i].is == first[i].must_be) continue;
    printf("# %s is %lu, was %lu\n", first[i].what, (unsigned long)first[i].is,
           (unsigned long)first[i].must_be);
    CHECK(first[i].is == first[i].must_be);
  }
}

static void offsets_and_sizes_do_not_move(void) { check_rows(rows, sizeof rows / sizeof *rows); }
static void constants_keep_their_numbers(void) {
  check_rows(constants, sizeof constants / sizeof *constants);
}

/* ---- growth: a caller that knows less, and one that knows more ---- */

static void *test_alloc(void *user, size_t size, size_t align) {
  void *memory = NULL;
  (void)user;
  return posix_memalign(&memory, align < sizeof(void *) ? sizeof(void *) : align, size) == 0
             ? memory
             : NULL;
}
static void test_free(void *user, void *memory, size_t size, size_t align) {
  (void)user, (void)size, (void)align;
  free(memory);
}
static void run_all(void *user, uint32_t n, void (*fn)(void *, uint32_t), void *arg) {
  uint32_t i;
  (void)user;
  for (i = 0; i < n; ++i) fn(arg, i);
}

static void structs_from_an_older_program_are_filled_as_far_as_it_knows(void) {
  ponder_runtime *rt = NULL;
  ponder_error *err = NULL;
  ponder_device_info whole;
  unsigned char part[sizeof whole];
  size_t size;
  REQUIRE_OK(ponder_runtime_create(NULL, &rt, &err), err);
  CHECK_OK(ponder_runtime_get_device(rt, 0, &whole, sizeof whole));
  CHECK(whole.kind == PONDER_DEVICE_CPU || whole.kind == PONDER_DEVICE_GPU);
  for (size = 1; size < sizeof whole; ++size) {
    memset(part, 0xAA, sizeof part);
    CHECK_OK(ponder_runtime_get_device(rt, 0, (ponder_device_info *)(void *)part, size));
    CHECK(memcmp(part, &whole, size) == 0);
    CHECK(part[size] == 0xAA); /* nothing beyond what the caller has */
  }
  CHECK_INVALID(ponder_runtime_get_device(rt, 0, &whole, 0));
  ponder_runtime_release(rt);
}

static void structs_from_a_newer_program_are_zero_beyond_what_we_know(void) {
  struct {
    ponder_device_info known;
    uint64_t later[8];
  } grown;
  ponder_runtime *rt = NULL;
  ponder_error *err = NULL;
  size_t i;
  REQUIRE_OK(ponder_runtime_create(NULL, &rt, &err), err);
  memset(&grown, 0xAA, sizeof grown);
  CHECK_OK(ponder_runtime_get_device(rt, 0, &grown.known, sizeof grown));
  for (i = 0; i < 8; ++i) CHECK(grown.later[i] == 0);
  CHECK_INVALID(ponder_runtime_get_device(rt, 0, &grown.known, (size_t)-1));
  ponder_runtime_release(rt);
}

static void tables_from_a_newer_program_must_be_zero_beyond_what_we_know(void) {
  struct {
    ponder_allocator known;
    void *later[3];
  } allocator = {{NULL, test_alloc, test_free}, {NULL, NULL, NULL}};
  struct {
    ponder_thread_pool known;
    void *later[3];
  } pool = {{NULL, 2, 0, run_all}, {NULL, NULL, NULL}};
  ponder_runtime_options *o = NULL;
  CHECK_OK(ponder_runtime_options_create(&o));
  CHECK_OK(ponder_runtime_options_set_allocator(o, &allocator.known, sizeof allocator));
  CHECK_OK(ponder_runtime_options_set_thread_pool(o, &pool.known, sizeof pool));
  ((unsigned char *)&allocator)[sizeof allocator - 1] = 1;
  CHECK_STATUS(ponder_runtime_options_set_allocator(o, &allocator.known, sizeof allocator),
               PONDER_ERR_UNSUPPORTED);
  pool.later[0] = &pool;
  CHECK_STATUS(ponder_runtime_options_set_thread_pool(o, &pool.known, sizeof pool),
               PONDER_ERR_UNSUPPORTED);
  /* Smaller than the first release had it: no such program exists. */
  CHECK_INVALID(ponder_runtime_options_set_allocator(o, &allocator.known, 16));
  CHECK_INVALID(ponder_runtime_options_set_thread_pool(o, &pool.known, 16));
  CHECK_INVALID(ponder_runtime_options_set_allocator(o, &allocator.known, (size_t)-1));
  ponder_runtime_options_destroy(o);
}

static int closed;
static void count_close(void *user) { (void)user, ++closed; }

static void file_tables_of_the_wrong_size_are_refused_and_still_closed(void) {
  struct {
    ponder_io known;
    void *later[2];
  } io;
  ponder_runtime *rt = NULL;
  ponder_model *m = NULL;
  ponder_error *err = NULL;
  REQUIRE_OK(ponder_runtime_create(NULL, &rt, &err), err);
  memset(&io, 0, sizeof io);
  io.known.close = count_close;
  io.later[1] = &io;
  closed = 0;
  CHECK_STATUS(ponder_model_load_io(rt, &io.known, sizeof io, NULL, &m, NULL),
               PONDER_ERR_UNSUPPORTED);
  CHECK(closed == 1);
  io.later[1] = NULL; /* size and read are missing */
  CHECK_INVALID(ponder_model_load_io(rt, &io.known, sizeof io, NULL, &m, NULL));
  CHECK(closed == 2);
  CHECK_INVALID(ponder_model_load_io(rt, &io.known, 8, NULL, &m, NULL));
  CHECK(closed == 2); /* the size says that there is no close to call */
  CHECK(m == NULL);
  ponder_runtime_release(rt);
}

int main(int argc, char **argv) {
  harness_begin(argc, argv);
  RUN(offsets_and_sizes_do_not_move);
  RUN(constants_keep_their_numbers);
  RUN(structs_from_an_older_program_are_filled_as_far_as_it_knows);
  RUN(structs_from_a_newer_program_are_zero_beyond_what_we_know);
  RUN(tables_from_a_newer_program_must_be_zero_beyond_what_we_know);
  RUN(file_tables_of_the_wrong_size_are_refused_and_still_closed);
  return harness_end();
}
