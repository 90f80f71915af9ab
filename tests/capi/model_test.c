/* Models: loading, description, tokens, rendering, scores. */
#include <math.h>

#include "tests/capi/common.h"
#include "tests/capi/countdown_golden.inc"

static void info_describes_the_model(void) {
  ponder_model_info info;
  CHECK_OK(ponder_model_get_info(shared_model, &info, sizeof info));
  CHECK(info.architecture.size == strlen("Qwen2ForCausalLM") &&
        memcmp(info.architecture.data, "Qwen2ForCausalLM", info.architecture.size) == 0);
  CHECK(info.name.size == strlen("countdown") && memcmp(info.name.data, "countdown", 9) == 0);
  CHECK(info.fingerprint.size == 64);
  CHECK(info.parameters == 2871936);
  CHECK(info.weight_bytes >= 5000000);
  CHECK(info.kv_bytes > 0);
  /* 5 layers, 2 heads of 32, keys and values, in 2 or 4 bytes. */
  CHECK(info.kv_bytes_per_1000 >= 5ull * 2 * 32 * 2 * 2 * 1000);
  CHECK(info.vocabulary == 320 && info.layers == 5);
  CHECK(info.trained_context == 1024 && info.context > 0 && info.context <= 1024);
  CHECK(info.device == 0 && info.precision == PONDER_PRECISION_F32);
  CHECK(info.kv_type >= PONDER_KV_F32 && info.kv_type <= PONDER_KV_Q8_0);
  CHECK(info.reasons && info.has_template);
  CHECK(info.thought_open.size == 7 && memcmp(info.thought_open.data, "<think>", 7) == 0);
  CHECK(info.thought_close.size == 8 && memcmp(info.thought_close.data, "</think>", 8) == 0);
  CHECK(info.eos_count == 1 && info.eos_tokens != NULL && info.eos_tokens[0] == EOS);
  CHECK(info.temperature == 0.6f && info.top_p == 0.95f && info.top_k == 0 && info.min_p == 0 &&
        info.repeat_penalty == 1);
  CHECK_INVALID(ponder_model_get_info(shared_model, NULL, sizeof info));
  CHECK_INVALID(ponder_model_get_info(shared_model, &info, 0));
}

static void needs_are_those_of_the_loaded_model(void) {
  ponder_model_info info;
  ponder_model_needs needs;
  ponder_model_options *o = NULL;
  ponder_error *err = NULL;
  ponder_stats stats;
  CHECK_OK(ponder_model_options_create(&o));
  CHECK_OK(ponder_model_options_set_precision(o, PONDER_PRECISION_F32));
  REQUIRE_OK(ponder_model_examine(shared_runtime, kCountdownModel, o, &needs, sizeof needs, &err),
             err);
  CHECK_OK(ponder_model_get_info(shared_model, &info, sizeof info));
  CHECK_OK(ponder_model_get_stats(shared_model, &stats, sizeof stats));
  CHECK(needs.parameters == info.parameters && needs.weight_bytes == info.weight_bytes);
  CHECK(needs.layers == info.layers && needs.trained_context == info.trained_context);
  CHECK(needs.kv_bytes_per_1000 == info.kv_bytes_per_1000);
  CHECK(needs.scratch_bytes == stats.scratch_bytes);
  CHECK(needs.experts == 0 && needs.expert_bytes == 0 && needs.expert_budget == 0);
  CHECK(needs.attention_bytes > 0 && needs.feed_forward_bytes > needs.attention_bytes);
  CHECK(needs.attention_bytes + needs.feed_forward_bytes + needs.other_bytes >=
        needs.weight_bytes);
  CHECK(needs.token_bytes > needs.attention_bytes + needs.feed_forward_bytes);
  CHECK(needs.memory_total > needs.memory_free && needs.fits == PONDER_FITS_ALL);
  /* Experts of a model that has none may take what they like: it all stays, or does not fit. */
  CHECK_OK(ponder_model_options_set_expert_bytes(o, 1000));
  CHECK_OK(ponder_model_examine(shared_runtime, kCountdownModel, o, &needs, sizeof needs, NULL));
  CHECK(needs.fits == PONDER_FITS_ALL && needs.expert_budget == 0);
  CHECK_OK(ponder_model_options_set_device(o, 1000));
  CHECK_STATUS(ponder_model_examine(shared_runtime, kCountdownModel, o, &needs, sizeof needs, NULL),
               PONDER_ERR_NOT_FOUND);
  ponder_model_options_destroy(o);
}

static void fingerprints_are_equal_for_equal_models(void) {
  ponder_model_info first, second;
  ponder_model *m = NULL;
  ponder_error *err = NULL;
  char path[600];
  snprintf(path, sizeof path, "%s/", kCountdownModel);
  REQUIRE_OK(ponder_model_load(shared_runtime, path, NULL, &m, &err), err);
  CHECK_OK(ponder_model_get_info(shared_model, &first, sizeof first));
  CHECK_OK(ponder_model_get_info(m, &second, sizeof second));
  CHECK(first.fingerprint.size == second.fingerprint.size &&
        memcmp(first.fingerprint.data, second.fingerprint.data, first.fingerprint.size) == 0);
  CHECK(second.precision == PONDER_PRECISION_AUTO);
  ponder_model_release(m);
}

static void template_source_is_told(void) {
  ponder_str source = {NULL, 0};
  CHECK_OK(ponder_model_get_template(shared_model, &source));
  CHECK(source.size > 100 && memchr(source.data, '{', source.size) != NULL);
  CHECK_INVALID(ponder_model_get_template(shared_model, NULL));
}

/* ---- loading ----------------------------------------------------------------------------------
 */

static void loading_says_what_is_wrong(void) {
  ponder_model *m = NULL;
  ponder_model_options *o = NULL;
  ponder_error *err = NULL;
  ponder_str words;
  char text[700];
  CHECK_STATUS(ponder_model_load(shared_runtime, "/no/such/folder", NULL, &m, NULL),
               PONDER_ERR_NOT_FOUND);
  CHECK_STATUS(ponder_model_load(shared_runtime, kSourceDir, NULL, &m, &err),
               PONDER_ERR_NOT_FOUND); /* a folder without a model */
  ponder_error_get(err, NULL, &words);
  snprintf(text, sizeof text, "%.*s", (int)words.size, words.data);
  CHECK(strstr(text, "config.json") != NULL);
  ponder_error_destroy(err);
  CHECK(ponder_model_load(shared_runtime, "", NULL, &m, NULL) < 0);
  snprintf(text, sizeof text, "%s/config.json", kCountdownModel);
  CHECK(ponder_model_load(shared_runtime, text, NULL, &m, NULL) < 0);

  CHECK_OK(ponder_model_options_create(&o));
  CHECK_OK(ponder_model_options_set_device(o, 1000));
  CHECK_STATUS(ponder_model_load(shared_runtime, kCountdownModel, o, &m, NULL),
               PONDER_ERR_NOT_FOUND);
  CHECK_OK(ponder_model_options_set_device(o, 0));
  CHECK_OK(ponder_model_options_set_context(o, 2048)); /* trained for 1024 */
  CHECK_STATUS(ponder_model_load(shared_runtime, kCountdownModel, o, &m, NULL),
               PONDER_ERR_UNSUPPORTED);
  CHECK_OK(ponder_model_options_set_context(o, 0));
  CHECK_OK(ponder_model_options_set_kv_bytes(o, 1000)); /* not one page */
  CHECK_STATUS(ponder_model_load(shared_runtime, kCountdownModel, o, &m, NULL),
               PONDER_ERR_OUT_OF_MEMORY);
  CHECK_OK(ponder_model_options_set_kv_bytes(o, UINT64_MAX));
  CHECK_STATUS(ponder_model_load(shared_runtime, kCountdownModel, o, &m, NULL),
               PONDER_ERR_OUT_OF_MEMORY);
  CHECK_OK(ponder_model_options_set_kv_bytes(o, 0));
  CHECK_OK(ponder_model_options_set_hint(o, "no_such_hint", "1"));
  CHECK_STATUS(ponder_model_load(shared_runtime, kCountdownModel, o, &m, &err),
               PONDER_ERR_NOT_FOUND);
  ponder_error_get(err, NULL, &words);
  snprintf(text, sizeof text, "%.*s", (int)words.size, words.data);
  CHECK(strstr(text, "no_such_hint") != NULL);
  ponder_error_destroy(err);
  CHECK(m == NULL);
  ponder_model_options_destroy(o);
}

static void options_shape_the_model(void) {
  ponder_model_options *o = NULL;
  ponder_model *m = NULL;
  ponder_model_info info;
  ponder_error *err = NULL;
  CHECK_OK(ponder_model_options_create(&o));
  CHECK_OK(ponder_model_options_set_context(o, 256));
  CHECK_OK(ponder_model_options_set_kv_bytes(o, 4 << 20));
  CHECK_OK(ponder_model_options_set_kv_type(o, PONDER_KV_F32));
  REQUIRE_OK(ponder_model_load(shared_runtime, kCountdownModel, o, &m, &err), err);
  ponder_model_options_destroy(o);
  CHECK_OK(ponder_model_get_info(m, &info, sizeof info));
  CHECK(info.context == 256 && info.trained_context == 1024);
  CHECK(info.kv_bytes > 0 && info.kv_bytes <= 4 << 20);
  CHECK(info.kv_type == PONDER_KV_F32);
  ponder_model_release(m);
}

static void kv_types_take_what_they_say(void) {
  /* Bytes of 32 numbers; this model's heads are whole multiples of that. */
  static const struct {
    int32_t type;
    uint64_t bytes;
  } kTypes[] = {{PONDER_KV_F32, 128}, {PONDER_KV_BF16, 64}, {PONDER_KV_F16, 64},
                {PONDER_KV_Q8_0, 34}};
  uint64_t f32_bytes = 0;
  for (size_t i = 0; i < sizeof kTypes / sizeof kTypes[0]; ++i) {
    ponder_model_options *o = NULL;
    ponder_model *m = NULL;
    ponder_model_info info;
    ponder_error *err = NULL;
    CHECK_OK(ponder_model_options_create(&o));
    CHECK_OK(ponder_model_options_set_context(o, 256));
    CHECK_OK(ponder_model_options_set_kv_type(o, kTypes[i].type));
    REQUIRE_OK(ponder_model_load(shared_runtime, kCountdownModel, o, &m, &err), err);
    ponder_model_options_destroy(o);
    CHECK_OK(ponder_model_get_info(m, &info, sizeof info));
    CHECK(info.kv_type == kTypes[i].type);
    if (i == 0) f32_bytes = info.kv_bytes_per_1000;
    CHECK(info.kv_bytes_per_1000 * 128 == f32_bytes * kTypes[i].bytes);
    ponder_model_release(m);
  }
}

static void kv_types_of_other_devices_are_refused(void) {
  ponder_model_options *o = NULL;
  ponder_model *m = NULL;
  ponder_error *err = NULL;
  ponder_str words;
  char text[256];
  CHECK_OK(ponder_model_options_create(&o));
  CHECK_OK(ponder_model_options_set_kv_type(o, PONDER_KV_F8_E4M3));
  CHECK_STATUS(ponder_model_load(shared_runtime, kCountdownModel, o, &m, &err),
               PONDER_ERR_UNSUPPORTED);
  CHECK(m == NULL);
  ponder_error_get(err, NULL, &words);
  snprintf(text, sizeof text, "%.*s", (int)words.size, words.data);
  CHECK(strstr(text, "KV cache of f8_e4m3") != NULL);
  ponder_error_destroy(err);
  ponder_model_options_destroy(o);
}

typedef struct progress {
  uint64_t last, total;
  int calls, stop_at, backwards;
  pthread_t thread;
} progress;

static int32_t on_progress(void *user, uint64_t done, uint64_t total) {
  progress *p = user;
  if (done < p->last || done > total) p->backwards = 1;
  p->last = done, p->total = total;
  p->thread = pthread_self();
  return ++p->calls == p->stop_at;
}

static void progress_counts_up_to_the_total_on_the_loading_thread(void) {
  progress p = {0, 0, 0, 0, 0, 0};
  ponder_model_options *o = NULL;
  ponder_model *m = NULL;
  ponder_error *err = NULL;
  CHECK_OK(ponder_model_options_create(&o));
  CHECK_OK(ponder_model_options_set_progress(o, on_progress, &p));
  REQUIRE_OK(ponder_model_load(shared_runtime, kCountdownModel, o, &m, &err), err);
  CHECK(p.calls >= 2 && !p.backwards);
  CHECK(p.total > 1000000 && p.last == p.total);
  CHECK(pthread_equal(p.thread, pthread_self()));
  ponder_model_options_destroy(o);
  ponder_model_release(m);
}

static void progress_can_stop_the_load_at_any_call(void) {
  progress p = {0, 0, 0, 0, 0, 0};
  ponder_model_options *o = NULL;
  ponder_model *m = NULL;
  int n, calls;
  CHECK_OK(ponder_model_options_create(&o));
  CHECK_OK(ponder_model_options_set_progress(o, on_progress, &p));
  CHECK_OK(ponder_model_load(shared_runtime, kCountdownModel, o, &m, NULL));
  ponder_model_release(m);
  calls = p.calls;
  for (n = 1; n <= calls; n += n < 8 ? 1 : calls / 8 + 1) {
    memset(&p, 0, sizeof p);
    p.stop_at = n;
    CHECK_STATUS(ponder_model_load(shared_runtime, kCountdownModel, o, &m, NULL),
                 PONDER_ERR_CANCELLED);
    CHECK(m == NULL && p.calls == n);
  }
  ponder_model_options_destroy(o);
}

/* ---- tokens -----------------------------------------------------------------------------------
 */

static void text_becomes_tokens_and_text_again(void) {
  static const char text[] = "Use 3, 5 and 7 to make 22.";
  ponder_token tokens[100];
  char again[100];
  size_t count = 0, size = 0, i;
  CHECK_STATUS(ponder_model_tokenize(shared_model, text, PONDER_STRLEN, 0, NULL, &count),
               PONDER_ERR_BUFFER_TOO_SMALL);
  CHECK(count > 5 && count < 30);
  i = count - 1;
  CHECK_STATUS(ponder_model_tokenize(shared_model, text, PONDER_STRLEN, 0, tokens, &i),
               PONDER_ERR_BUFFER_TOO_SMALL);
  CHECK(i == count);
  i = 100;
  CHECK_OK(ponder_model_tokenize(shared_model, text, sizeof text - 1, 0, tokens, &i));
  CHECK(i == count);
  CHECK_STATUS(ponder_model_detokenize(shared_model, tokens, count, NULL, &size),
               PONDER_ERR_BUFFER_TOO_SMALL);
  CHECK(size == sizeof text - 1);
  CHECK_OK(ponder_model_detokenize(shared_model, tokens, count, again, &size));
  CHECK(memcmp(again, text, sizeof text - 1) == 0);
}

static void special_tokens_are_parsed_only_on_request(void) {
  ponder_token tokens[40];
  size_t count = 40;
  CHECK_OK(
      ponder_model_tokenize(shared_model, "</think>", 8, PONDER_TOKENIZE_SPECIAL, tokens, &count));
  CHECK(count == 1 && tokens[0] == THOUGHT_CLOSE);
  count = 40;
  CHECK_OK(
      ponder_model_tokenize(shared_model, "</think>", 8, PONDER_TOKENIZE_PLAIN, tokens, &count));
  CHECK(count > 1);
}

static void nothing_becomes_nothing(void) {
  ponder_token token = 5;
  char byte = 'x';
  size_t count = 0;
  CHECK_OK(ponder_model_tokenize(shared_model, NULL, 0, 0, NULL, &count));
  CHECK(count == 0);
  CHECK_OK(ponder_model_tokenize(shared_model, "", PONDER_STRLEN, 0, &token, &count));
  CHECK(count == 0);
  CHECK_OK(ponder_model_detokenize(shared_model, NULL, 0, NULL, &count));
  CHECK(count == 0);
  CHECK_OK(ponder_model_detokenize(shared_model, &token, 0, &byte, &count));
  CHECK(count == 0 && byte == 'x' && token == 5);
}

static void tokens_are_checked(void) {
  const ponder_token bad[] = {320, -1, 2147483647, -2147483647 - 1};
  char text[40];
  ponder_token token;
  size_t size, i;
  for (i = 0; i < 4; ++i) {
    size = sizeof text;
    CHECK_INVALID(ponder_model_detokenize(shared_model, &bad[i], 1, text, &size));
    CHECK_STATUS(ponder_model_get_token_text(shared_model, bad[i], text, &size),
                 PONDER_ERR_NOT_FOUND);
  }
  size = 1;
  CHECK_INVALID(ponder_model_tokenize(shared_model, NULL, 1, 0, &token, &size));
  CHECK_INVALID(ponder_model_tokenize(shared_model, "a", (size_t)-2, 0, &token, &size));
  CHECK_INVALID(ponder_model_tokenize(shared_model, "a", 1, 8, &token, &size));
  CHECK_INVALID(ponder_model_tokenize(shared_model, "a", 1, 0, &token, NULL));
  CHECK_INVALID(ponder_model_tokenize(shared_model, "a", 1, 0, NULL, &size));
  CHECK_INVALID(ponder_model_detokenize(shared_model, NULL, 1, text, &size));
  CHECK_INVALID(ponder_model_detokenize(shared_model, bad, (size_t)-1, text, &size));
  CHECK_INVALID(ponder_model_detokenize(shared_model, bad, 1, text, NULL));
  CHECK_INVALID(ponder_model_get_token_text(shared_model, 1, text, NULL));
  CHECK_INVALID(ponder_model_get_token_text(shared_model, 1, NULL, &size));
}

static void every_token_has_its_text(void) {
  ponder_token t;
  size_t with_text = 0;
  for (t = 0; t < 320; ++t) {
    char one[64], same[64];
    size_t size = sizeof one, same_size = sizeof same;
    CHECK_OK(ponder_model_get_token_text(shared_model, t, one, &size));
    CHECK_OK(ponder_model_detokenize(shared_model, &t, 1, same, &same_size));
    CHECK(size == same_size && memcmp(one, same, size) == 0);
    with_text += size != 0;
  }
  CHECK(with_text == 313); /* 307 tokens and 6 added ones; the other rows are padding */
}

/* ---- rendering --------------------------------------------------------------------------------
 */

static void rendering_gives_the_reference_prompt(void) {
  int i;
  for (i = 0; i < GOLDEN_COUNT; ++i) {
    ponder_chat *c = NULL;
    char text[600];
    ponder_token tokens[100];
    size_t size = sizeof text, count = 100;
    ponder_error *err = NULL;
    CHECK_OK(ponder_chat_create(&c));
    CHECK_OK(ponder_chat_add(c, PONDER_ROLE_USER, goldens[i].message, PONDER_STRLEN));
    REQUIRE_OK(ponder_chat_render(c, shared_model, text, &size, &err), err);
    CHECK_OK(
        ponder_model_tokenize(shared_model, text, size, PONDER_TOKENIZE_SPECIAL, tokens, &count));
    CHECK(count == goldens[i].prompt_count &&
          memcmp(tokens, goldens[i].prompt, count * sizeof *tokens) == 0);
    ponder_chat_destroy(c);
  }
}

static void rendering_obeys_the_generation_prompt_and_the_buffer(void) {
  ponder_chat *c = NULL;
  char with[600], without[600];
  size_t with_size = 0, without_size = sizeof without;
  CHECK_OK(ponder_chat_create(&c));
  CHECK_OK(ponder_chat_add(c, PONDER_ROLE_USER, "Make 4 from 1 and 3.", PONDER_STRLEN));
  CHECK_OK(ponder_chat_add_assistant(c, "1+3", 3, "1+3 = 4", 7, NULL, 0, NULL));
  CHECK_OK(ponder_chat_add(c, PONDER_ROLE_USER, "And 5?", PONDER_STRLEN));
  CHECK_STATUS(ponder_chat_render(c, shared_model, NULL, &with_size, NULL),
               PONDER_ERR_BUFFER_TOO_SMALL);
  REQUIRE(with_size < sizeof with);
  CHECK_OK(ponder_chat_render(c, shared_model, with, &with_size, NULL));
  CHECK_OK(ponder_chat_set_generation_prompt(c, 0));
  CHECK_OK(ponder_chat_render(c, shared_model, without, &without_size, NULL));
  CHECK(without_size < with_size && memcmp(with, without, without_size) == 0);
  with[with_size] = 0;
  CHECK(strstr(with, "1+3 = 4") != NULL);
  CHECK(strstr(with, "1+3\n") == NULL); /* R1's template drops earlier thoughts */
  CHECK_INVALID(ponder_chat_render(c, shared_model, NULL, NULL, NULL));
  CHECK_INVALID(ponder_chat_render(NULL, shared_model, with, &with_size, NULL));
  ponder_chat_destroy(c);
}

/* ---- scores -----------------------------------------------------------------------------------
 */

static void scores_agree_with_the_reference(void) {
  int i;
  for (i = 0; i < GOLDEN_COUNT; ++i) {
    const golden *g = &goldens[i];
    const size_t count = g->prompt_count + g->greedy_count;
    ponder_token tokens[512], top[512 * 3];
    float logprobs[512], top_logprobs[512 * 3];
    size_t k, n;
    ponder_error *err = NULL;
    REQUIRE(count <= 512);
    memcpy(tokens, g->prompt, g->prompt_count * sizeof *tokens);
    memcpy(tokens + g->prompt_count, g->greedy, g->greedy_count * sizeof *tokens);
    REQUIRE_OK(
        ponder_model_score(shared_model, tokens, count, 3, logprobs, top, top_logprobs, &err), err);
    for (k = 0; k < count; ++k) {
      for (n = 1; n < 3; ++n) CHECK(top_logprobs[3 * k + n] <= top_logprobs[3 * k + n - 1]);
      if (k + 1 == count) break;
      CHECK(logprobs[k] <= 0 && logprobs[k] <= top_logprobs[3 * k]);
      /* Greedy: each generated token is the likeliest at its place. */
      if (k + 1 >= g->prompt_count) {
        CHECK(top[3 * k] == tokens[k + 1]);
        CHECK(fabsf(logprobs[k] - top_logprobs[3 * k]) < 1e-6f);
      }
    }
  }
}

static void the_whole_distribution_sums_to_one(void) {
  static ponder_token top[3 * 320];
  static float logprobs[2], top_logprobs[3 * 320];
  const ponder_token tokens[3] = {307, 309, 297};
  double sum = 0;
  int seen[320] = {0};
  int i;
  CHECK_OK(ponder_model_score(shared_model, tokens, 3, 320, logprobs, top, top_logprobs, NULL));
  for (i = 0; i < 320; ++i) {
    sum += exp(top_logprobs[320 + i]);
    CHECK(top[320 + i] >= 0 && top[320 + i] < 320 && !seen[top[320 + i]]);
    seen[top[320 + i]] = 1;
    if (top[320 + i] == 297) CHECK(top_logprobs[320 + i] == logprobs[1]);
  }
  CHECK(fabs(sum - 1) < 1e-4);
}

static void score_checks_its_arguments(void) {
  static ponder_token many[2000];
  ponder_token tokens[2] = {1, 2}, top[2];
  float numbers[2], alone = 7;
  CHECK_OK(ponder_model_score(shared_model, tokens, 1, 0, &alone, NULL, NULL, NULL));
  CHECK(alone == 7); /* one token has no predecessor: nothing is written */
  CHECK_OK(ponder_model_score(shared_model, tokens, 2, 0, NULL, NULL, NULL, NULL));
  CHECK_OK(ponder_model_score(shared_model, tokens, 2, 1, NULL, top, NULL, NULL));
  CHECK_OK(ponder_model_score(shared_model, tokens, 2, 1, NULL, NULL, numbers, NULL));
  CHECK_INVALID(ponder_model_score(shared_model, tokens, 0, 0, numbers, NULL, NULL, NULL));
  CHECK_INVALID(ponder_model_score(shared_model, NULL, 2, 0, numbers, NULL, NULL, NULL));
  CHECK_INVALID(ponder_model_score(shared_model, tokens, 2, 321, numbers, top, numbers, NULL));
  CHECK_STATUS(ponder_model_score(shared_model, many, 2000, 0, NULL, NULL, NULL, NULL),
               PONDER_ERR_CONTEXT_FULL);
  CHECK_STATUS(ponder_model_score(shared_model, tokens, (size_t)-1, 0, NULL, NULL, NULL, NULL),
               PONDER_ERR_CONTEXT_FULL);
  tokens[1] = 320;
  CHECK_INVALID(ponder_model_score(shared_model, tokens, 2, 0, numbers, NULL, NULL, NULL));
  tokens[1] = -1;
  CHECK_INVALID(ponder_model_score(shared_model, tokens, 2, 0, numbers, NULL, NULL, NULL));
}

static void stats_of_a_model_count(void) {
  ponder_stats before, after;
  ponder_session *s = NULL;
  ponder_request *r = ask("Use 3, 5 and 7 to make 15.");
  const uint64_t end = now_us() + 5000000;
  transcript t;
  do { /* what ended is taken off the list a moment later */
    CHECK_OK(ponder_model_get_stats(shared_model, &before, sizeof before));
    sleep_us(1000);
  } while (before.running + before.waiting != 0 && now_us() < end);
  CHECK(before.kv_bytes > 0 && before.kv_bytes_used <= before.kv_bytes);
  CHECK(before.running == 0 && before.waiting == 0);
  CHECK_OK(ponder_session_create(shared_model, &s, NULL));
  CHECK_OK(ponder_request_set_max_tokens(r, 20));
  run_request(s, r, &t);
  CHECK_OK(ponder_model_get_stats(shared_model, &after, sizeof after));
  CHECK(after.prompt_tokens == before.prompt_tokens + t.prompt_tokens);
  CHECK(after.thought_tokens + after.answer_tokens >=
        before.thought_tokens + before.answer_tokens + 1);
  CHECK(after.steps > before.steps);
  CHECK_INVALID(ponder_model_get_stats(shared_model, NULL, sizeof after));
  CHECK_INVALID(ponder_model_get_stats(shared_model, &after, 0));
  ponder_request_destroy(r);
  ponder_session_destroy(s);
}

int main(int argc, char **argv) {
  harness_begin(argc, argv);
  if (!shared_begin()) return 1;
  RUN(info_describes_the_model);
  RUN(needs_are_those_of_the_loaded_model);
  RUN(fingerprints_are_equal_for_equal_models);
  RUN(template_source_is_told);
  RUN(loading_says_what_is_wrong);
  RUN(options_shape_the_model);
  RUN(kv_types_take_what_they_say);
  RUN(kv_types_of_other_devices_are_refused);
  RUN(progress_counts_up_to_the_total_on_the_loading_thread);
  RUN(progress_can_stop_the_load_at_any_call);
  RUN(text_becomes_tokens_and_text_again);
  RUN(special_tokens_are_parsed_only_on_request);
  RUN(nothing_becomes_nothing);
  RUN(tokens_are_checked);
  RUN(every_token_has_its_text);
  RUN(rendering_gives_the_reference_prompt);
  RUN(rendering_obeys_the_generation_prompt_and_the_buffer);
  RUN(scores_agree_with_the_reference);
  RUN(the_whole_distribution_sums_to_one);
  RUN(score_checks_its_arguments);
  RUN(stats_of_a_model_count);
  shared_end();
  return harness_end();
}
