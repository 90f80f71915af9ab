/* Everything that needs no model: versions, errors, options, chats, requests; NULL everywhere. */
#include <math.h>

#include "tests/capi/common.h"

static void version_is_that_of_the_headers_or_newer(void) {
  int32_t major = -1, minor = -1, patch = -1;
  ponder_version(&major, &minor, &patch);
  CHECK(major == PONDER_VERSION_MAJOR && minor == PONDER_VERSION_MINOR &&
        patch == PONDER_VERSION_PATCH);
  ponder_version(NULL, NULL, NULL);
  ponder_version(NULL, &minor, NULL);
  CHECK(minor == PONDER_VERSION_MINOR);
}

static void build_info_is_json_with_the_version(void) {
  const char *info = ponder_build_info();
  REQUIRE(info != NULL);
  CHECK(info[0] == '{' && info[strlen(info) - 1] == '}');
  CHECK(strstr(info, "\"version\":\"" PONDER_VERSION_STRING "\"") != NULL);
  CHECK(strstr(info, "\"backends\":[\"") != NULL);
  CHECK(strchr(info, '\n') == NULL);
}

static void status_names_are_those_of_the_constants(void) {
  CHECK(strcmp(ponder_status_name(PONDER_OK), "PONDER_OK") == 0);
  CHECK(strcmp(ponder_status_name(PONDER_PENDING), "PONDER_PENDING") == 0);
  CHECK(strcmp(ponder_status_name(PONDER_DONE), "PONDER_DONE") == 0);
  CHECK(strcmp(ponder_status_name(PONDER_ERR_IO), "PONDER_ERR_IO") == 0);
  CHECK(strcmp(ponder_status_name(PONDER_ERR_INTERNAL), "PONDER_ERR_INTERNAL") == 0);
  CHECK(strcmp(ponder_status_name(-14), "PONDER_UNKNOWN") == 0);
  CHECK(strcmp(ponder_status_name(2147483647), "PONDER_UNKNOWN") == 0);
  CHECK(strcmp(ponder_status_name(-2147483647 - 1), "PONDER_UNKNOWN") == 0);
}

static void errors_carry_status_and_one_line_of_words(void) {
  ponder_error *err = NULL;
  ponder_model *m = (ponder_model *)&err;
  ponder_status status = PONDER_OK;
  ponder_str words = {NULL, 0};
  CHECK_INVALID(ponder_model_load(NULL, "/nowhere", NULL, &m, &err));
  CHECK(m == NULL);
  REQUIRE(err != NULL);
  ponder_error_get(err, &status, &words);
  CHECK_INVALID(status);
  CHECK(words.size > 10 && memchr(words.data, '\n', words.size) == NULL);
  ponder_error_get(err, NULL, NULL);
  ponder_error_get(err, NULL, &words);
  ponder_error_get(err, &status, NULL);
  ponder_error_destroy(err);

  ponder_error_get(NULL, &status, &words);
  CHECK_OK(status);
  CHECK(words.size == 0);
  ponder_error_destroy(NULL);
}

static void an_error_is_written_only_on_failure(void) {
  ponder_runtime *rt = NULL;
  ponder_error *const mark = (ponder_error *)(void *)&rt;
  ponder_error *err = mark;
  CHECK_OK(ponder_runtime_create(NULL, &rt, &err));
  CHECK(err == mark);
  ponder_runtime_release(rt);
}

static void words_name_the_thing_that_failed(void) {
  ponder_runtime *rt = NULL;
  ponder_model *m = NULL;
  ponder_error *err = NULL;
  ponder_str words;
  char text[600];
  REQUIRE_OK(ponder_runtime_create(NULL, &rt, &err), err);
  CHECK_STATUS(ponder_model_load(rt, "/no/such\nfolder", NULL, &m, &err), PONDER_ERR_NOT_FOUND);
  ponder_error_get(err, NULL, &words);
  snprintf(text, sizeof text, "%.*s", (int)words.size, words.data);
  CHECK(strstr(text, "/no/such") != NULL && strchr(text, '\n') == NULL);
  ponder_error_destroy(err);
  ponder_runtime_release(rt);
}

/* ---- NULL everywhere --------------------------------------------------------------------------
 */

static void destroy_and_release_ignore_null(void) {
  ponder_error_destroy(NULL);
  ponder_runtime_options_destroy(NULL);
  ponder_runtime_release(NULL);
  ponder_model_options_destroy(NULL);
  ponder_model_release(NULL);
  ponder_chat_destroy(NULL);
  ponder_request_destroy(NULL);
  ponder_session_destroy(NULL);
  ponder_generation_destroy(NULL);
  CHECK(ponder_runtime_retain(NULL) == NULL);
  CHECK(ponder_model_retain(NULL) == NULL);
}

static void signals_ignore_null(void) {
  ponder_runtime_set_waker(NULL, NULL, NULL);
  ponder_generation_cancel(NULL);
  ponder_generation_close_thought(NULL);
  ponder_generation_set_waker(NULL, NULL, NULL);
  ponder_generation_set_user_data(NULL, NULL);
  CHECK(ponder_generation_get_user_data(NULL) == NULL);
}

static int32_t no_progress(void *user, uint64_t done, uint64_t total) {
  (void)user, (void)done, (void)total;
  return 0;
}

static void every_function_refuses_null_handles(void) {
  ponder_runtime *rt = NULL;
  ponder_model *m = NULL;
  ponder_session *s = NULL;
  ponder_generation *g = NULL;
  ponder_device_info device;
  ponder_model_info info;
  ponder_model_needs needs;
  ponder_event ev;
  ponder_stats stats;
  ponder_str text;
  ponder_token token = 0;
  ponder_io io;
  float number = 0;
  char byte = 0;
  size_t size = 1;
  memset(&io, 0, sizeof io);

  CHECK_INVALID(ponder_runtime_options_create(NULL));
  CHECK_INVALID(ponder_runtime_options_set_log(NULL, NULL, NULL, PONDER_LOG_INFO));
  CHECK_INVALID(ponder_runtime_options_set_allocator(NULL, NULL, 0));
  CHECK_INVALID(ponder_runtime_options_set_thread_pool(NULL, NULL, 0));
  CHECK_INVALID(ponder_runtime_options_set_threads(NULL, 1));
  CHECK_INVALID(ponder_runtime_options_set_drive(NULL, PONDER_DRIVE_HOST));
  CHECK_INVALID(ponder_runtime_create(NULL, NULL, NULL));
  CHECK(ponder_runtime_device_count(NULL) == 0);
  CHECK_INVALID(ponder_runtime_get_device(NULL, 0, &device, sizeof device));
  CHECK_INVALID(ponder_runtime_poll(NULL, 0));
  CHECK_INVALID(ponder_runtime_next_ready(NULL, &g));

  CHECK_INVALID(ponder_model_options_create(NULL));
  CHECK_INVALID(ponder_model_options_set_device(NULL, 0));
  CHECK_INVALID(ponder_model_options_set_context(NULL, 0));
  CHECK_INVALID(ponder_model_options_set_kv_bytes(NULL, 0));
  CHECK_INVALID(ponder_model_options_set_expert_bytes(NULL, 0));
  CHECK_INVALID(ponder_model_options_set_draft_layer(NULL, 1));
  CHECK_INVALID(ponder_model_options_set_kv_type(NULL, PONDER_KV_AUTO));
  CHECK_INVALID(ponder_model_options_set_precision(NULL, PONDER_PRECISION_AUTO));
  CHECK_INVALID(ponder_model_options_set_progress(NULL, no_progress, NULL));
  CHECK_INVALID(ponder_model_options_set_hint(NULL, "a", "b"));
  CHECK_INVALID(ponder_model_load(NULL, kCountdownModel, NULL, &m, NULL));
  CHECK_INVALID(ponder_model_load_io(NULL, &io, sizeof io, NULL, &m, NULL));
  CHECK_INVALID(ponder_model_examine(NULL, kCountdownModel, NULL, &needs, sizeof needs, NULL));
  CHECK_INVALID(ponder_model_get_info(NULL, &info, sizeof info));
  CHECK_INVALID(ponder_model_get_template(NULL, &text));
  CHECK_INVALID(ponder_model_tokenize(NULL, "a", 1, 0, &token, &size));
  CHECK_INVALID(ponder_model_detokenize(NULL, &token, 1, &byte, &size));
  CHECK_INVALID(ponder_model_get_token_text(NULL, 0, &byte, &size));
  CHECK_INVALID(ponder_model_score(NULL, &token, 1, 0, &number, NULL, NULL, NULL));
  CHECK_INVALID(ponder_quantize(NULL, "/tmp/x", "q8_0", NULL, 1, NULL, NULL, NULL));
  CHECK_INVALID(ponder_quantize(kCountdownModel, NULL, "q8_0", NULL, 1, NULL, NULL, NULL));
  CHECK_INVALID(ponder_quantize(kCountdownModel, "/tmp/x", NULL, NULL, 1, NULL, NULL, NULL));
  CHECK_INVALID(
      ponder_calibrate(NULL, kCountdownModel, NULL, "a", 1, "/tmp/x", no_progress, NULL, NULL));
  CHECK_INVALID(ponder_model_get_stats(NULL, &stats, sizeof stats));

  CHECK_INVALID(ponder_chat_create(NULL));
  CHECK_INVALID(ponder_chat_add(NULL, PONDER_ROLE_USER, "a", 1));
  CHECK_INVALID(ponder_chat_add_assistant(NULL, "", 0, "a", 1, NULL, 0, NULL));
  CHECK_INVALID(ponder_chat_add_tool_result(NULL, "1", "a", 1));
  CHECK_INVALID(ponder_chat_add_json(NULL, "[]", 2, NULL));
  CHECK_INVALID(ponder_chat_get_json(NULL, &byte, &size));
  CHECK(ponder_chat_message_count(NULL) == 0);
  CHECK_INVALID(ponder_chat_truncate(NULL, 0));
  CHECK_INVALID(ponder_chat_set_tools(NULL, "[]", 2, NULL));
  CHECK_INVALID(ponder_chat_set_variable(NULL, "a", "1", 1, NULL));
  CHECK_INVALID(ponder_chat_set_generation_prompt(NULL, 1));
  CHECK_INVALID(ponder_chat_render(NULL, NULL, &byte, &size, NULL));

  CHECK_INVALID(ponder_request_create(NULL));
  CHECK_INVALID(ponder_request_set_chat(NULL, NULL));
  CHECK_INVALID(ponder_request_set_text(NULL, "a", 1, 0));
  CHECK_INVALID(ponder_request_set_tokens(NULL, &token, 1));
  CHECK_INVALID(ponder_request_set_max_tokens(NULL, 1));
  CHECK_INVALID(ponder_request_set_seed(NULL, 1));
  CHECK_INVALID(ponder_request_set_temperature(NULL, 1));
  CHECK_INVALID(ponder_request_set_top_p(NULL, 1));
  CHECK_INVALID(ponder_request_set_top_k(NULL, 1));
  CHECK_INVALID(ponder_request_set_min_p(NULL, 0));
  CHECK_INVALID(ponder_request_set_penalties(NULL, 1, 0, 0));
  CHECK_INVALID(ponder_request_set_logit_bias(NULL, &token, &number, 1));
  CHECK_INVALID(ponder_request_add_stop(NULL, "a", 1));
  CHECK_INVALID(ponder_request_set_logprobs(NULL, 0));
  CHECK_INVALID(ponder_request_set_ignore_eos(NULL, 1));
  CHECK_INVALID(ponder_request_set_speculation(NULL, PONDER_SPECULATION_NGRAM, 4));
  CHECK_INVALID(ponder_request_set_draft_model(NULL, NULL));
  CHECK_INVALID(ponder_request_set_reasoning(NULL, PONDER_REASONING_OFF));
  CHECK_INVALID(ponder_request_set_thought_budget(NULL, 1, 1));
  CHECK_INVALID(ponder_request_set_thought_closing(NULL, "a", 1));
  CHECK_INVALID(ponder_request_set_thought_hidden(NULL, 1));

  CHECK_INVALID(ponder_session_create(NULL, &s, NULL));
  CHECK_INVALID(ponder_session_fork(NULL, &s));
  CHECK(ponder_session_token_count(NULL) == 0);
  CHECK_INVALID(ponder_session_truncate(NULL, 0));
  CHECK_INVALID(ponder_session_submit(NULL, NULL, &g, NULL));
  CHECK_INVALID(ponder_generation_next(NULL, &ev, sizeof ev, NULL));
  CHECK_INVALID(ponder_generation_wait(NULL, 0));
  CHECK_INVALID(ponder_generation_get_stats(NULL, &stats, sizeof stats));
  CHECK(rt == NULL && m == NULL && s == NULL && g == NULL);
}

static void every_function_refuses_null_results(void) {
  ponder_model_needs needs;
  ponder_runtime *rt = NULL;
  ponder_error *err = NULL;
  REQUIRE_OK(ponder_runtime_create(NULL, &rt, &err), err);
  CHECK_INVALID(ponder_runtime_get_device(rt, 0, NULL, sizeof(ponder_device_info)));
  CHECK_INVALID(ponder_runtime_next_ready(rt, NULL));
  CHECK_INVALID(ponder_model_load(rt, kCountdownModel, NULL, NULL, NULL));
  CHECK_INVALID(ponder_model_examine(rt, NULL, NULL, &needs, sizeof needs, NULL));
  CHECK_INVALID(ponder_model_examine(rt, kCountdownModel, NULL, NULL, sizeof needs, NULL));
  CHECK_STATUS(ponder_model_examine(rt, "/no/such\nfolder", NULL, &needs, sizeof needs, &err),
               PONDER_ERR_NOT_FOUND);
  ponder_error_destroy(err);
  err = NULL;
  CHECK_INVALID(ponder_model_load(rt, NULL, NULL, (ponder_model **)&err, NULL));
  CHECK_INVALID(
      ponder_model_load_io(rt, NULL, sizeof(ponder_io), NULL, (ponder_model **)&err, NULL));
  CHECK_STATUS(ponder_runtime_get_device(rt, 1000000, NULL, 0), PONDER_ERR_NOT_FOUND);
  ponder_runtime_release(rt);
}

/* ---- options ----------------------------------------------------------------------------------
 */

static void *some_alloc(void *user, size_t size, size_t align) {
  (void)user, (void)size, (void)align;
  return NULL;
}
static void some_free(void *user, void *memory, size_t size, size_t align) {
  (void)user, (void)memory, (void)size, (void)align;
}
static void some_loop(void *user, uint32_t n, void (*fn)(void *, uint32_t), void *arg) {
  uint32_t i;
  (void)user;
  for (i = 0; i < n; ++i) fn(arg, i);
}
static void some_log(void *user, int32_t level, const char *text, size_t size) {
  (void)user, (void)level, (void)text, (void)size;
}

static void runtime_options_check_their_values(void) {
  ponder_runtime_options *o = NULL;
  ponder_allocator a = {NULL, some_alloc, some_free};
  ponder_thread_pool p = {NULL, 2, 0, some_loop};
  CHECK_OK(ponder_runtime_options_create(&o));
  CHECK_OK(ponder_runtime_options_set_log(o, some_log, NULL, PONDER_LOG_DEBUG));
  CHECK_OK(ponder_runtime_options_set_log(o, NULL, NULL, PONDER_LOG_ERROR));
  CHECK_INVALID(ponder_runtime_options_set_log(o, some_log, NULL, 4));
  CHECK_INVALID(ponder_runtime_options_set_log(o, some_log, NULL, -1));
  CHECK_OK(ponder_runtime_options_set_allocator(o, &a, sizeof a));
  CHECK_OK(ponder_runtime_options_set_allocator(o, NULL, 0));
  a.free = NULL;
  CHECK_INVALID(ponder_runtime_options_set_allocator(o, &a, sizeof a));
  a.free = some_free, a.alloc = NULL;
  CHECK_INVALID(ponder_runtime_options_set_allocator(o, &a, sizeof a));
  CHECK_OK(ponder_runtime_options_set_thread_pool(o, &p, sizeof p));
  CHECK_OK(ponder_runtime_options_set_thread_pool(o, NULL, 0));
  p.concurrency = 0;
  CHECK_INVALID(ponder_runtime_options_set_thread_pool(o, &p, sizeof p));
  p.concurrency = 1025;
  CHECK_INVALID(ponder_runtime_options_set_thread_pool(o, &p, sizeof p));
  p.concurrency = 1, p.parallel_for = NULL;
  CHECK_INVALID(ponder_runtime_options_set_thread_pool(o, &p, sizeof p));
  p.parallel_for = some_loop, p.reserved = 1;
  CHECK_STATUS(ponder_runtime_options_set_thread_pool(o, &p, sizeof p), PONDER_ERR_UNSUPPORTED);
  CHECK_OK(ponder_runtime_options_set_threads(o, 0));
  CHECK_OK(ponder_runtime_options_set_threads(o, 1024));
  CHECK_INVALID(ponder_runtime_options_set_threads(o, 1025));
  CHECK_INVALID(ponder_runtime_options_set_threads(o, 0xFFFFFFFFu));
  CHECK_OK(ponder_runtime_options_set_drive(o, PONDER_DRIVE_HOST));
  CHECK_INVALID(ponder_runtime_options_set_drive(o, 2));
  CHECK_INVALID(ponder_runtime_options_set_drive(o, -1));
  ponder_runtime_options_destroy(o);
}

static void model_options_check_their_values(void) {
  ponder_model_options *o = NULL;
  CHECK_OK(ponder_model_options_create(&o));
  CHECK_OK(ponder_model_options_set_device(o, 0xFFFFFFFFu)); /* load will say */
  CHECK_OK(ponder_model_options_set_context(o, 0x7FFFFFFF));
  CHECK_INVALID(ponder_model_options_set_context(o, 0x80000000u));
  CHECK_OK(ponder_model_options_set_kv_bytes(o, UINT64_MAX));
  CHECK_OK(ponder_model_options_set_expert_bytes(o, UINT64_MAX));
  CHECK_OK(ponder_model_options_set_kv_type(o, PONDER_KV_F16));
  CHECK_OK(ponder_model_options_set_kv_type(o, PONDER_KV_Q8_0));
  CHECK_OK(ponder_model_options_set_kv_type(o, PONDER_KV_F8_E4M3)); /* load will say */
  CHECK_INVALID(ponder_model_options_set_kv_type(o, 6));
  CHECK_INVALID(ponder_model_options_set_kv_type(o, -1));
  CHECK_OK(ponder_model_options_set_precision(o, PONDER_PRECISION_F32));
  CHECK_OK(ponder_model_options_set_precision(o, PONDER_PRECISION_FP8));
  CHECK_INVALID(ponder_model_options_set_precision(o, 3));
  CHECK_INVALID(ponder_model_options_set_precision(o, -1));
  CHECK_OK(ponder_model_options_set_progress(o, no_progress, NULL));
  CHECK_OK(ponder_model_options_set_progress(o, NULL, NULL));
  CHECK_OK(ponder_model_options_set_hint(o, "anything", "value")); /* load will say */
  CHECK_OK(ponder_model_options_set_hint(o, "anything", NULL));
  CHECK_INVALID(ponder_model_options_set_hint(o, NULL, "value"));
  CHECK_INVALID(ponder_model_options_set_hint(o, "", "value"));
  ponder_model_options_destroy(o);
}

static void devices_are_described(void) {
  ponder_runtime *rt = NULL;
  ponder_error *err = NULL;
  ponder_device_info info;
  uint32_t i, count;
  REQUIRE_OK(ponder_runtime_create(NULL, &rt, &err), err);
  count = ponder_runtime_device_count(rt);
  CHECK(count >= 1);
  for (i = 0; i < count; ++i) {
    CHECK_OK(ponder_runtime_get_device(rt, i, &info, sizeof info));
    CHECK(info.kind == PONDER_DEVICE_CPU || info.kind == PONDER_DEVICE_GPU);
    CHECK(info.backend.size != 0 && info.name.size != 0);
    CHECK(info.memory_free <= info.memory_total);
  }
  CHECK_STATUS(ponder_runtime_get_device(rt, count, &info, sizeof info), PONDER_ERR_NOT_FOUND);
  ponder_runtime_release(rt);
}

static void runtimes_are_counted(void) {
  ponder_runtime *rt = NULL;
  ponder_error *err = NULL;
  REQUIRE_OK(ponder_runtime_create(NULL, &rt, &err), err);
  CHECK(ponder_runtime_retain(rt) == rt);
  ponder_runtime_release(rt);
  CHECK(ponder_runtime_device_count(rt) >= 1);
  ponder_runtime_release(rt);
}

/* ---- requests ---------------------------------------------------------------------------------
 */

static void request_setters_check_their_values(void) {
  const float nan_value = (float)NAN, infinite = (float)INFINITY;
  ponder_token tokens[2] = {1, 2};
  float bias[2] = {1, -1};
  char long_text[5000];
  ponder_request *r = NULL;
  ponder_chat *c = NULL;
  int i;
  memset(long_text, 'a', sizeof long_text);
  CHECK_OK(ponder_request_create(&r));
  CHECK_OK(ponder_chat_create(&c));
  CHECK_INVALID(ponder_request_set_chat(r, NULL));
  CHECK_OK(ponder_request_set_chat(r, c));
  ponder_chat_destroy(c);
  CHECK_INVALID(ponder_request_set_text(r, NULL, 1, 0));
  CHECK_INVALID(ponder_request_set_text(r, NULL, PONDER_STRLEN, 0));
  CHECK_INVALID(ponder_request_set_text(r, "a", PONDER_STRLEN - 1, 0));
  CHECK_INVALID(ponder_request_set_text(r, "a", 1, 4));
  CHECK_INVALID(ponder_request_set_text(r, "a", 1, -1));
  CHECK_OK(ponder_request_set_text(r, NULL, 0, 0));
  CHECK_OK(
      ponder_request_set_text(r, "a", 1, PONDER_TOKENIZE_SPECIAL | PONDER_TOKENIZE_ADD_SPECIAL));
  CHECK_INVALID(ponder_request_set_tokens(r, NULL, 1));
  CHECK_INVALID(ponder_request_set_tokens(r, tokens, 0));
  CHECK_INVALID(ponder_request_set_tokens(r, tokens, (size_t)-1));
  CHECK_INVALID(ponder_request_set_tokens(r, tokens, (size_t)1 << 62));
  CHECK_OK(ponder_request_set_tokens(r, tokens, 2));

  CHECK_OK(ponder_request_set_max_tokens(r, 0));
  CHECK_OK(ponder_request_set_max_tokens(r, 0xFFFFFFFFu));
  CHECK_OK(ponder_request_set_seed(r, UINT64_MAX));
  CHECK_OK(ponder_request_set_temperature(r, 0));
  CHECK_INVALID(ponder_request_set_temperature(r, -0.1f));
  CHECK_INVALID(ponder_request_set_temperature(r, nan_value));
  CHECK_INVALID(ponder_request_set_temperature(r, infinite));
  CHECK_OK(ponder_request_set_top_p(r, 1));
  CHECK_INVALID(ponder_request_set_top_p(r, 0));
  CHECK_INVALID(ponder_request_set_top_p(r, 1.01f));
  CHECK_INVALID(ponder_request_set_top_p(r, nan_value));
  CHECK_OK(ponder_request_set_top_k(r, 0xFFFFFFFFu));
  CHECK_OK(ponder_request_set_min_p(r, 0));
  CHECK_INVALID(ponder_request_set_min_p(r, -1));
  CHECK_INVALID(ponder_request_set_min_p(r, nan_value));
  CHECK_OK(ponder_request_set_penalties(r, 1.1f, -2, 2));
  CHECK_INVALID(ponder_request_set_penalties(r, 0, 0, 0));
  CHECK_INVALID(ponder_request_set_penalties(r, 101, 0, 0));
  CHECK_INVALID(ponder_request_set_penalties(r, 1, 101, 0));
  CHECK_INVALID(ponder_request_set_penalties(r, nan_value, 0, 0));
  CHECK_INVALID(ponder_request_set_penalties(r, 1, infinite, 0));
  CHECK_INVALID(ponder_request_set_penalties(r, 1, 0, nan_value));
  CHECK_OK(ponder_request_set_logit_bias(r, tokens, bias, 2));
  bias[1] = -infinite;
  CHECK_OK(ponder_request_set_logit_bias(r, tokens, bias, 2));
  bias[1] = 2e6f;
  CHECK_INVALID(ponder_request_set_logit_bias(r, tokens, bias, 2));
  bias[1] = infinite;
  CHECK_INVALID(ponder_request_set_logit_bias(r, tokens, bias, 2));
  bias[1] = nan_value;
  CHECK_INVALID(ponder_request_set_logit_bias(r, tokens, bias, 2));
  bias[1] = 0, tokens[1] = -1;
  CHECK_INVALID(ponder_request_set_logit_bias(r, tokens, bias, 2));
  CHECK_INVALID(ponder_request_set_logit_bias(r, NULL, bias, 2));
  CHECK_INVALID(ponder_request_set_logit_bias(r, tokens, NULL, 2));
  CHECK_INVALID(ponder_request_set_logit_bias(r, tokens, bias, (size_t)-1));
  CHECK_OK(ponder_request_set_logit_bias(r, NULL, NULL, 0));

  CHECK_INVALID(ponder_request_add_stop(r, "", 0));
  CHECK_INVALID(ponder_request_add_stop(r, NULL, PONDER_STRLEN));
  CHECK_INVALID(ponder_request_add_stop(r, long_text, 4097));
  for (i = 0; i < 64; ++i) CHECK_OK(ponder_request_add_stop(r, long_text, (size_t)i + 1));
  CHECK_INVALID(ponder_request_add_stop(r, "one too many", PONDER_STRLEN));
  CHECK_OK(ponder_request_set_logprobs(r, -1));
  CHECK_OK(ponder_request_set_logprobs(r, 1000));
  CHECK_INVALID(ponder_request_set_logprobs(r, 1001));
  CHECK_INVALID(ponder_request_set_logprobs(r, -2));
  CHECK_OK(ponder_request_set_ignore_eos(r, 1));
  CHECK_OK(ponder_request_set_speculation(r, PONDER_SPECULATION_NGRAM, UINT32_MAX));
  CHECK_OK(ponder_request_set_speculation(r, PONDER_SPECULATION_OFF, 0));
  CHECK_OK(ponder_request_set_speculation(r, PONDER_SPECULATION_MTP, 3));
  CHECK_OK(ponder_request_set_speculation(r, PONDER_SPECULATION_DRAFT_MODEL, 0));
  CHECK_INVALID(ponder_request_set_speculation(r, 4, 0));
  CHECK_INVALID(ponder_request_set_speculation(r, -1, 0));
  CHECK_OK(ponder_request_set_draft_model(r, NULL));

  CHECK_OK(ponder_request_set_reasoning(r, PONDER_REASONING_ON));
  CHECK_INVALID(ponder_request_set_reasoning(r, 3));
  CHECK_INVALID(ponder_request_set_reasoning(r, -1));
  CHECK_OK(ponder_request_set_thought_budget(r, 0, 5));
  CHECK_OK(ponder_request_set_thought_budget(r, 5, 0));
  CHECK_OK(ponder_request_set_thought_budget(r, 5, 5));
  CHECK_INVALID(ponder_request_set_thought_budget(r, 6, 5));
  CHECK_OK(ponder_request_set_thought_closing(r, "So:", PONDER_STRLEN));
  CHECK_OK(ponder_request_set_thought_closing(r, NULL, 0));
  CHECK_INVALID(ponder_request_set_thought_closing(r, NULL, 3));
  CHECK_OK(ponder_request_set_thought_hidden(r, 1));
  ponder_request_destroy(r);
}

/* ---- chats ------------------------------------------------------------------------------------
 */

static void chat_json(const ponder_chat *c, char *text, size_t room) {
  size_t size = room - 1;
  CHECK_OK(ponder_chat_get_json(c, text, &size));
  text[size < room ? size : 0] = 0;
}

static void chats_keep_their_messages(void) {
  const char *calls =
      "[{\"id\":\"1\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}]";
  ponder_chat *c = NULL, *copy = NULL;
  char text[2000], again[2000];
  size_t size = 0;
  CHECK_OK(ponder_chat_create(&c));
  CHECK(ponder_chat_message_count(c) == 0);
  CHECK_OK(ponder_chat_add(c, PONDER_ROLE_SYSTEM, "Be brief.", PONDER_STRLEN));
  CHECK_OK(ponder_chat_add(c, PONDER_ROLE_USER, "h\303\251llo\n\"quoted\"", PONDER_STRLEN));
  CHECK_OK(ponder_chat_add_assistant(c, "hm", 2, "hi", 2, calls, PONDER_STRLEN, NULL));
  CHECK_OK(ponder_chat_add_tool_result(c, "1", "42", 2));
  CHECK_OK(ponder_chat_add_tool_result(c, NULL, "43", 2));
  CHECK_OK(ponder_chat_add(c, PONDER_ROLE_USER, "", 0));
  CHECK(ponder_chat_message_count(c) == 6);
  CHECK_STATUS(ponder_chat_get_json(c, NULL, &size), PONDER_ERR_BUFFER_TOO_SMALL);
  CHECK(size > 100 && size < sizeof text);
  chat_json(c, text, sizeof text);
  CHECK(strlen(text) == size);
  CHECK(strstr(text, "Be brief.") && strstr(text, "reasoning_content") &&
        strstr(text, "tool_calls"));

  /* What it gives it takes. */
  CHECK_OK(ponder_chat_create(&copy));
  CHECK_OK(ponder_chat_add_json(copy, text, PONDER_STRLEN, NULL));
  chat_json(copy, again, sizeof again);
  CHECK(strcmp(text, again) == 0);
  CHECK_OK(ponder_chat_truncate(copy, 2));
  CHECK(ponder_chat_message_count(copy) == 2);
  CHECK_OK(ponder_chat_truncate(copy, 100));
  CHECK(ponder_chat_message_count(copy) == 2);
  CHECK_OK(ponder_chat_truncate(copy, 0));
  CHECK(ponder_chat_message_count(copy) == 0);
  ponder_chat_destroy(copy);
  ponder_chat_destroy(c);
}

static void chats_take_openai_messages(void) {
  ponder_chat *c = NULL;
  char text[2000];
  CHECK_OK(ponder_chat_create(&c));
  CHECK_OK(ponder_chat_add_json(c, "{\"role\":\"user\",\"content\":\"one\"}", PONDER_STRLEN, NULL));
  CHECK_OK(ponder_chat_add_json(
      c, "[{\"role\":\"assistant\",\"content\":\"two\"},{\"role\":\"user\",\"content\":\"three\"}]",
      PONDER_STRLEN, NULL));
  CHECK(ponder_chat_message_count(c) == 3);
  CHECK_OK(ponder_chat_add_json(c,
                                "{\"messages\":[{\"role\":\"user\",\"content\":\"four\"}],"
                                "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}],"
                                "\"add_generation_prompt\":false,\"enable_thinking\":true}",
                                PONDER_STRLEN, NULL));
  CHECK(ponder_chat_message_count(c) == 4);
  chat_json(c, text, sizeof text);
  CHECK(strstr(text, "\"tools\"") && strstr(text, "\"enable_thinking\":true"));
  CHECK(strstr(text, "\"add_generation_prompt\":false"));
  ponder_chat_destroy(c);
}

static void chats_refuse_what_is_no_chat(void) {
  static const char *const broken[] = {"",
                                       "{",
                                       "null",
                                       "3",
                                       "\"text\"",
                                       "[3]",
                                       "{\"content\":\"no role\"}",
                                       "[{\"role\":3,\"content\":\"a\"}]",
                                       "{\"messages\":3}",
                                       "{\"messages\":[],\"tools\":3}",
                                       "[{\"role\":\"user\",\"content\":\"\xff\"}]",
                                       "[{\"role\":\"user\",\"content\":\"a\"},",
                                       "{\"messages\":[],\"add_generation_prompt\":3}"};
  ponder_chat *c = NULL;
  ponder_error *err;
  ponder_str words;
  char before[500], after[500], *deep;
  size_t i;
  CHECK_OK(ponder_chat_create(&c));
  CHECK_OK(ponder_chat_add(c, PONDER_ROLE_USER, "kept", PONDER_STRLEN));
  chat_json(c, before, sizeof before);
  for (i = 0; i < sizeof broken / sizeof *broken; ++i) {
    err = NULL;
    if (ponder_chat_add_json(c, broken[i], PONDER_STRLEN, &err) != PONDER_ERR_CORRUPT) {
      printf("# accepted or misnamed: %s\n", broken[i]);
      CHECK(0);
    }
    ponder_error_get(err, NULL, &words);
    CHECK(words.size > 10);
    ponder_error_destroy(err);
  }
  deep = malloc(200000);
  REQUIRE(deep != NULL);
  memset(deep, '[', 200000);
  CHECK_STATUS(ponder_chat_add_json(c, deep, 200000, NULL), PONDER_ERR_CORRUPT);
  free(deep);
  CHECK_STATUS(ponder_chat_add_assistant(c, NULL, 0, "a", 1, "{}", 2, NULL), PONDER_ERR_CORRUPT);
  CHECK_STATUS(ponder_chat_add_assistant(c, NULL, 0, "a", 1, "[", 1, NULL), PONDER_ERR_CORRUPT);
  CHECK_STATUS(ponder_chat_set_tools(c, "{}", 2, NULL), PONDER_ERR_CORRUPT);
  CHECK_STATUS(ponder_chat_set_tools(c, "[1", 2, NULL), PONDER_ERR_CORRUPT);
  CHECK_STATUS(ponder_chat_set_variable(c, "a", "nope", 4, NULL), PONDER_ERR_CORRUPT);
  CHECK_INVALID(ponder_chat_set_variable(c, NULL, "1", 1, NULL));
  CHECK_INVALID(ponder_chat_set_variable(c, "", "1", 1, NULL));
  CHECK_INVALID(ponder_chat_add(c, 0, "a", 1));
  CHECK_INVALID(ponder_chat_add(c, 5, "a", 1));
  CHECK_INVALID(ponder_chat_add(c, PONDER_ROLE_USER, NULL, 1));
  CHECK_INVALID(ponder_chat_add(c, PONDER_ROLE_USER, "\xff\xfe", 2));
  CHECK_INVALID(ponder_chat_add(c, PONDER_ROLE_USER, "a", PONDER_STRLEN - 1));
  CHECK_INVALID(ponder_chat_add_tool_result(c, "\xff", "a", 1));
  CHECK_INVALID(ponder_chat_add_json(c, NULL, PONDER_STRLEN, NULL));
  CHECK_INVALID(ponder_chat_get_json(c, NULL, NULL));
  CHECK_INVALID(ponder_chat_render(c, NULL, NULL, NULL, NULL));
  chat_json(c, after, sizeof after);
  CHECK(strcmp(before, after) == 0);
  ponder_chat_destroy(c);
}

static void chat_variables_and_tools_can_be_taken_back(void) {
  ponder_chat *c = NULL;
  char text[500];
  CHECK_OK(ponder_chat_create(&c));
  CHECK_OK(ponder_chat_set_variable(c, "thinking", "true", PONDER_STRLEN, NULL));
  CHECK_OK(ponder_chat_set_tools(c, "[{\"type\":\"function\"}]", PONDER_STRLEN, NULL));
  CHECK_OK(ponder_chat_set_generation_prompt(c, 0));
  chat_json(c, text, sizeof text);
  CHECK(strstr(text, "\"thinking\":true") && strstr(text, "\"tools\""));
  CHECK_OK(ponder_chat_set_variable(c, "thinking", NULL, 0, NULL));
  CHECK_OK(ponder_chat_set_tools(c, NULL, 0, NULL));
  CHECK_OK(ponder_chat_set_generation_prompt(c, 7));
  chat_json(c, text, sizeof text);
  CHECK(!strstr(text, "thinking") && !strstr(text, "tools"));
  CHECK(strstr(text, "\"add_generation_prompt\":true"));
  ponder_chat_destroy(c);
}

int main(int argc, char **argv) {
  harness_begin(argc, argv);
  RUN(version_is_that_of_the_headers_or_newer);
  RUN(build_info_is_json_with_the_version);
  RUN(status_names_are_those_of_the_constants);
  RUN(errors_carry_status_and_one_line_of_words);
  RUN(an_error_is_written_only_on_failure);
  RUN(words_name_the_thing_that_failed);
  RUN(destroy_and_release_ignore_null);
  RUN(signals_ignore_null);
  RUN(every_function_refuses_null_handles);
  RUN(every_function_refuses_null_results);
  RUN(runtime_options_check_their_values);
  RUN(model_options_check_their_values);
  RUN(devices_are_described);
  RUN(runtimes_are_counted);
  RUN(request_setters_check_their_values);
  RUN(chats_keep_their_messages);
  RUN(chats_take_openai_messages);
  RUN(chats_refuse_what_is_no_chat);
  RUN(chat_variables_and_tools_can_be_taken_back);
  return harness_end();
}
