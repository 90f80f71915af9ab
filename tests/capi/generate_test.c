/* Generations: events, reasoning controls, sampling, sessions. */
#include <math.h>

#include "tests/capi/common.h"
#include "tests/capi/countdown_golden.inc"

static const char puzzle[] = "Use 3, 5 and 7 to make 22.";
/* One whose greedy thought is long: 218 tokens. */
static const char long_puzzle[] = "Using the numbers 17, 9 and 12, reach 51.";

static ponder_session *new_session(void) {
  ponder_session *s = NULL;
  CHECK_OK(ponder_session_create(shared_model, &s, NULL));
  return s;
}

static ponder_request *ask_greedily(const char *message) {
  ponder_request *r = ask(message);
  CHECK_OK(ponder_request_set_temperature(r, 0));
  return r;
}

static int same_tokens(const transcript *a, const transcript *b) {
  return a->all_count == b->all_count && memcmp(a->all, b->all, a->all_count * sizeof *a->all) == 0;
}

/* ---- what comes out ---------------------------------------------------------------------------
 */

static void greedy_answers_are_those_of_the_reference(void) {
  int i;
  for (i = 0; i < GOLDEN_COUNT; ++i) {
    const golden *g = &goldens[i];
    ponder_session *s = new_session();
    ponder_request *r = ask_greedily(g->message);
    const char *close = strstr(g->text, "</think>");
    transcript t;
    run_request(s, r, &t);
    check_whole(&t);
    CHECK(t.prompt_tokens == g->prompt_count);
    CHECK(t.all_count == g->greedy_count &&
          memcmp(t.all, g->greedy, t.all_count * sizeof *t.all) == 0);
    CHECK(t.finish == PONDER_FINISH_STOP);
    CHECK(t.thought_ends == 1 && t.thought_finish == PONDER_FINISH_STOP);
    REQUIRE(close != NULL);
    /* The texts without markers and the blank lines around them. */
    CHECK(strncmp(t.thought, g->text, strlen(t.thought)) == 0);
    CHECK(strlen(t.thought) + 1 == (size_t)(close - g->text));
    close += strlen("</think>\n\n");
    CHECK(strncmp(t.answer, close, strlen(t.answer)) == 0 && strlen(t.answer) > 3);
    CHECK(strncmp(close + strlen(t.answer), "<\357\275\234end", 7) == 0);
    ponder_request_destroy(r);
    ponder_session_destroy(s);
  }
}

static void text_and_tokens_make_the_same_prompt_as_a_chat(void) {
  ponder_request *r = ask_greedily(goldens[0].message);
  ponder_session *s = new_session();
  ponder_chat *c = NULL;
  transcript chat, text, tokens;
  char prompt[600];
  size_t size = sizeof prompt;
  run_request(s, r, &chat);
  CHECK_OK(ponder_chat_create(&c));
  CHECK_OK(ponder_chat_add(c, PONDER_ROLE_USER, goldens[0].message, PONDER_STRLEN));
  CHECK_OK(ponder_chat_render(c, shared_model, prompt, &size, NULL));
  CHECK_OK(ponder_request_set_text(r, prompt, size, PONDER_TOKENIZE_SPECIAL));
  run_request(s, r, &text);
  CHECK_OK(ponder_request_set_tokens(r, goldens[0].prompt, goldens[0].prompt_count));
  run_request(s, r, &tokens);
  check_whole(&text);
  CHECK(same_tokens(&chat, &text) && same_tokens(&chat, &tokens));
  CHECK(strcmp(chat.answer, tokens.answer) == 0 && strcmp(chat.thought, text.thought) == 0);
  ponder_chat_destroy(c);
  ponder_request_destroy(r);
  ponder_session_destroy(s);
}

static void text_without_flags_is_plain(void) {
  ponder_request *r = NULL;
  ponder_session *s = new_session();
  ponder_generation *g = NULL;
  ponder_event ev;
  CHECK_OK(ponder_request_create(&r));
  CHECK_OK(ponder_request_set_text(r, "<think>", PONDER_STRLEN, PONDER_TOKENIZE_PLAIN));
  CHECK_OK(ponder_request_set_max_tokens(r, 1));
  CHECK_OK(ponder_session_submit(s, r, &g, NULL));
  CHECK_OK(ponder_generation_wait(g, PONDER_FOREVER));
  CHECK_OK(ponder_generation_next(g, &ev, sizeof ev, NULL));
  CHECK(ev.kind == PONDER_EVENT_STARTED && ev.prompt_tokens > 1);
  ponder_generation_destroy(g);
  ponder_request_destroy(r);
  ponder_session_destroy(s);
}

static void max_tokens_ends_with_length(void) {
  ponder_request *r = ask_greedily(puzzle);
  ponder_session *s = new_session();
  uint32_t n;
  transcript t;
  for (n = 1; n < 6; ++n) {
    CHECK_OK(ponder_request_set_max_tokens(r, n));
    run_request(s, r, &t);
    check_whole(&t);
    CHECK(t.finish == PONDER_FINISH_LENGTH && t.all_count == n);
    CHECK(t.thought_ends == 0 && t.thought_tokens == n && t.answer_tokens == 0);
  }
  ponder_request_destroy(r);
  ponder_session_destroy(s);
}

static void a_generation_without_room_left_ends_with_length(void) {
  ponder_model_options *o = NULL;
  ponder_model *m = NULL;
  ponder_session *s = NULL;
  ponder_request *r = ask_greedily(puzzle);
  ponder_token tokens[200];
  ponder_error *err = NULL;
  ponder_generation *g = (ponder_generation *)&err;
  transcript t;
  int i;
  for (i = 0; i < 200; ++i) tokens[i] = 1 + i;
  CHECK_OK(ponder_model_options_create(&o));
  CHECK_OK(ponder_model_options_set_context(o, 64));
  REQUIRE_OK(ponder_model_load(shared_runtime, kCountdownModel, o, &m, &err), err);
  CHECK_OK(ponder_session_create(m, &s, NULL));
  CHECK_OK(ponder_request_set_ignore_eos(r, 1));
  run_request(s, r, &t);
  check_whole(&t);
  CHECK(t.finish == PONDER_FINISH_LENGTH);
  CHECK(t.prompt_tokens + t.all_count >= 63 && t.prompt_tokens + t.all_count <= 65);
  CHECK(ponder_session_token_count(s) <= 64);

  CHECK_OK(ponder_request_set_tokens(r, tokens, 200));
  CHECK_STATUS(ponder_session_submit(s, r, &g, &err), PONDER_ERR_CONTEXT_FULL);
  CHECK(g == NULL && err != NULL);
  ponder_error_destroy(err);
  /* The session is as it was. */
  CHECK_OK(ponder_request_set_tokens(r, tokens, 10));
  run_request(s, r, &t);
  check_whole(&t);
  ponder_request_destroy(r);
  ponder_session_destroy(s);
  ponder_model_release(m);
  ponder_model_options_destroy(o);
}

static void submit_checks_the_request(void) {
  ponder_request *r = NULL;
  ponder_session *s = new_session();
  ponder_generation *g = (ponder_generation *)&r;
  ponder_error *err = NULL;
  ponder_token bad = 320;
  float bias = 1;
  CHECK_OK(ponder_request_create(&r));
  CHECK_INVALID(ponder_session_submit(s, r, &g, &err)); /* no prompt */
  CHECK(g == NULL && err != NULL);
  ponder_error_destroy(err);
  CHECK_OK(ponder_request_set_text(r, "", 0, 0));
  CHECK_INVALID(ponder_session_submit(s, r, &g, NULL)); /* an empty one */
  CHECK_OK(ponder_request_set_tokens(r, &bad, 1));
  CHECK_INVALID(ponder_session_submit(s, r, &g, NULL));
  bad = -1;
  CHECK_OK(ponder_request_set_tokens(r, &bad, 1));
  CHECK_INVALID(ponder_session_submit(s, r, &g, NULL));
  CHECK_OK(ponder_request_set_text(r, "a", 1, 0));
  bad = 320;
  CHECK_OK(ponder_request_set_logit_bias(r, &bad, &bias, 1));
  CHECK_INVALID(ponder_session_submit(s, r, &g, NULL));
  CHECK_OK(ponder_request_set_logit_bias(r, NULL, NULL, 0));
  CHECK_INVALID(ponder_session_submit(s, r, NULL, NULL));
  CHECK_INVALID(ponder_session_submit(s, NULL, &g, NULL));
  CHECK(ponder_session_token_count(s) == 0);
  ponder_request_destroy(r);
  ponder_session_destroy(s);
}

/* ---- reasoning --------------------------------------------------------------------------------
 */

static void the_hard_budget_closes_the_thought_for_certain(void) {
  ponder_request *r = ask_greedily(long_puzzle);
  ponder_session *s = new_session();
  transcript t;
  size_t i, closes = 0;
  CHECK_OK(ponder_request_set_thought_budget(r, 0, 30));
  run_request(s, r, &t);
  check_whole(&t);
  CHECK(t.thought_ends == 1 && t.thought_finish == PONDER_FINISH_BUDGET);
  CHECK(t.thought_tokens <= 30);
  CHECK(t.answer[0] != 0);
  for (i = 0; i < t.all_count; ++i) closes += t.all[i] == THOUGHT_CLOSE;
  CHECK(closes == 1); /* the real token, not its text */
  ponder_request_destroy(r);
  ponder_session_destroy(s);
}

static void the_closing_sentence_is_said_before_a_forced_close(void) {
  ponder_request *r = ask_greedily(long_puzzle);
  ponder_session *s = new_session();
  transcript t;
  CHECK_OK(ponder_request_set_thought_budget(r, 0, 40));
  CHECK_OK(ponder_request_set_thought_closing(r, "\n12-9=3 yes", PONDER_STRLEN));
  run_request(s, r, &t);
  check_whole(&t);
  CHECK(t.thought_finish == PONDER_FINISH_BUDGET);
  CHECK(strlen(t.thought) > 10 && strcmp(t.thought + strlen(t.thought) - 10, "12-9=3 yes") == 0);
  ponder_request_destroy(r);
  ponder_session_destroy(s);
}

static void the_soft_budget_closes_no_later_than_the_hard_one(void) {
  ponder_request *r = ask_greedily(long_puzzle);
  ponder_session *s = new_session();
  transcript t;
  CHECK_OK(ponder_request_set_thought_budget(r, 20, 120));
  run_request(s, r, &t);
  check_whole(&t);
  CHECK(t.thought_ends == 1 && t.thought_tokens <= 120);
  ponder_request_destroy(r);
  ponder_session_destroy(s);
}

static void reasoning_off_gives_an_answer_at_once(void) {
  ponder_request *r = ask_greedily(puzzle);
  ponder_session *s = new_session();
  transcript t;
  CHECK_OK(ponder_request_set_reasoning(r, PONDER_REASONING_OFF));
  CHECK_OK(ponder_request_set_max_tokens(r, 60));
  run_request(s, r, &t);
  check_whole(&t);
  CHECK(t.thought[0] == 0 && t.thought_tokens == 0);
  CHECK(t.answer[0] != 0);
  ponder_request_destroy(r);
  ponder_session_destroy(s);
}

static void reasoning_on_is_what_the_template_does_anyway(void) {
  ponder_request *r = ask_greedily(goldens[0].message);
  ponder_session *s = new_session();
  transcript t;
  CHECK_OK(ponder_request_set_reasoning(r, PONDER_REASONING_ON));
  run_request(s, r, &t);
  check_whole(&t);
  CHECK(t.all_count == goldens[0].greedy_count);
  ponder_request_destroy(r);
  ponder_session_destroy(s);
}

static void hidden_thoughts_are_counted_and_not_told(void) {
  ponder_request *r = ask_greedily(goldens[0].message);
  ponder_session *s = new_session();
  transcript open, hidden;
  run_request(s, r, &open);
  CHECK_OK(ponder_request_set_thought_hidden(r, 1));
  run_request(s, r, &hidden);
  check_whole(&hidden);
  CHECK(hidden.thought[0] == 0);
  CHECK(strcmp(open.answer, hidden.answer) == 0);
  CHECK(open.thought_tokens == hidden.thought_tokens && hidden.thought_tokens > 10);
  CHECK(hidden.token_count < open.token_count);
  ponder_request_destroy(r);
  ponder_session_destroy(s);
}

typedef struct late {
  ponder_generation *g;
  long after_us;
} late;
static void *close_later(void *arg) {
  late *l = arg;
  sleep_us(l->after_us);
  ponder_generation_close_thought(l->g);
  return NULL;
}
static void *cancel_later(void *arg) {
  late *l = arg;
  sleep_us(l->after_us);
  ponder_generation_cancel(l->g);
  return NULL;
}

/* A request that thinks until it is stopped. */
static ponder_request *think_for_long(void) {
  static const ponder_token never[2] = {THOUGHT_CLOSE, EOS};
  static float bias[2];
  ponder_request *r = ask_greedily(puzzle);
  bias[0] = bias[1] = -INFINITY;
  CHECK_OK(ponder_request_set_logit_bias(r, never, bias, 2));
  return r;
}

static void answer_now_from_another_thread(void) {
  static const ponder_token eos = EOS;
  static float bias;
  ponder_request *r = ask_greedily(puzzle);
  ponder_session *s = new_session();
  ponder_generation *g = NULL;
  transcript t;
  late l;
  pthread_t thread;
  bias = -INFINITY;
  CHECK_OK(ponder_request_set_logit_bias(r, &eos, &bias, 1));
  CHECK_OK(ponder_request_set_max_tokens(r, 900));
  CHECK_OK(ponder_session_submit(s, r, &g, NULL));
  l.g = g, l.after_us = 2000;
  thread = spawn(close_later, &l);
  pull_all(g, &t);
  pthread_join(thread, NULL);
  check_whole(&t);
  CHECK(t.thought_ends == 1);
  CHECK(t.thought_finish == PONDER_FINISH_HOST || t.thought_finish == PONDER_FINISH_STOP);
  ponder_generation_close_thought(g); /* too late: nothing */
  ponder_generation_destroy(g);

  /* Before the first token it is in time for certain. */
  CHECK_OK(ponder_session_submit(s, r, &g, NULL));
  ponder_generation_close_thought(g);
  pull_all(g, &t);
  check_whole(&t);
  CHECK(t.thought_finish == PONDER_FINISH_HOST && t.thought_tokens < 200);
  ponder_generation_destroy(g);
  ponder_request_destroy(r);
  ponder_session_destroy(s);
}

/* ---- cancelling -------------------------------------------------------------------------------
 */

static void cancel_from_another_thread_ends_with_cancelled(void) {
  ponder_request *r = think_for_long();
  ponder_session *s = new_session();
  int i;
  for (i = 0; i < 5; ++i) {
    ponder_generation *g = NULL;
    transcript t;
    late l;
    pthread_t thread;
    CHECK_OK(ponder_session_submit(s, r, &g, NULL));
    l.g = g, l.after_us = i * 3000;
    thread = spawn(cancel_later, &l);
    pull_all(g, &t);
    pthread_join(thread, NULL);
    CHECK_STATUS(t.last, PONDER_DONE);
    CHECK(t.finished && (t.finish == PONDER_FINISH_CANCELLED || t.finish == PONDER_FINISH_LENGTH));
    ponder_generation_cancel(g); /* again, and too late */
    ponder_generation_destroy(g);
  }
  ponder_request_destroy(r);
  ponder_session_destroy(s);
}

static void a_session_goes_on_after_a_cancel(void) {
  ponder_request *r = think_for_long(), *again = ask_greedily(goldens[0].message);
  ponder_session *s = new_session();
  ponder_generation *g = NULL;
  transcript t;
  CHECK_OK(ponder_session_submit(s, r, &g, NULL));
  ponder_generation_cancel(g);
  pull_all(g, &t);
  CHECK(t.finish == PONDER_FINISH_CANCELLED);
  ponder_generation_destroy(g);
  run_request(s, again, &t);
  check_whole(&t);
  CHECK(t.all_count == goldens[0].greedy_count &&
        memcmp(t.all, goldens[0].greedy, t.all_count * sizeof *t.all) == 0);
  ponder_request_destroy(r);
  ponder_request_destroy(again);
  ponder_session_destroy(s);
}

static void destroying_a_session_ends_its_generation(void) {
  ponder_request *r = think_for_long();
  ponder_session *s = new_session();
  ponder_generation *g = NULL;
  transcript t;
  CHECK_OK(ponder_session_submit(s, r, &g, NULL));
  ponder_session_destroy(s);
  pull_all(g, &t);
  CHECK_STATUS(t.last, PONDER_DONE);
  CHECK(t.finish == PONDER_FINISH_CANCELLED || t.finish == PONDER_FINISH_LENGTH);
  ponder_generation_destroy(g);
  ponder_request_destroy(r);
}

static void destroying_a_generation_frees_its_session(void) {
  ponder_request *r = think_for_long(), *quick = ask_greedily(puzzle);
  ponder_session *s = new_session();
  ponder_generation *g = NULL;
  ponder_status st = PONDER_ERR_BUSY;
  const uint64_t end = now_us() + 10000000;
  CHECK_OK(ponder_session_submit(s, r, &g, NULL));
  ponder_generation_destroy(g);
  CHECK_OK(ponder_request_set_max_tokens(quick, 3));
  while (st == PONDER_ERR_BUSY && now_us() < end) {
    st = ponder_session_submit(s, quick, &g, NULL);
    if (st == PONDER_ERR_BUSY) sleep_us(500);
  }
  CHECK_OK(st);
  ponder_generation_destroy(g);
  ponder_request_destroy(r);
  ponder_request_destroy(quick);
  ponder_session_destroy(s);
}

static void one_generation_at_a_time_per_session(void) {
  ponder_request *r = think_for_long();
  ponder_session *s = new_session(), *fork = NULL;
  ponder_generation *g = NULL, *second = NULL;
  ponder_error *err = NULL;
  transcript t;
  CHECK_OK(ponder_session_submit(s, r, &g, NULL));
  CHECK_STATUS(ponder_session_submit(s, r, &second, &err), PONDER_ERR_BUSY);
  CHECK(second == NULL && err != NULL);
  ponder_error_destroy(err);
  CHECK_STATUS(ponder_session_fork(s, &fork), PONDER_ERR_BUSY);
  CHECK_STATUS(ponder_session_truncate(s, 0), PONDER_ERR_BUSY);
  CHECK(fork == NULL);
  ponder_generation_cancel(g);
  pull_all(g, &t);
  CHECK_OK(ponder_session_truncate(s, 0));
  ponder_generation_destroy(g);
  ponder_request_destroy(r);
  ponder_session_destroy(s);
}

/* ---- sampling ---------------------------------------------------------------------------------
 */

static void the_same_seed_gives_the_same_tokens(void) {
  ponder_request *r = ask(puzzle);
  ponder_session *s = new_session(), *other = new_session();
  transcript first, second, third;
  CHECK_OK(ponder_request_set_seed(r, 12345));
  CHECK_OK(ponder_request_set_temperature(r, 1.5f));
  CHECK_OK(ponder_request_set_max_tokens(r, 80));
  run_request(s, r, &first);
  run_request(s, r, &second); /* with the prompt cached */
  run_request(other, r, &third);
  check_whole(&first);
  CHECK(second.cached_tokens > 0);
  CHECK(same_tokens(&first, &second) && same_tokens(&first, &third));
  CHECK_OK(ponder_request_set_seed(r, 54321));
  run_request(s, r, &second);
  CHECK(!same_tokens(&first, &second));
  ponder_request_destroy(r);
  ponder_session_destroy(s);
  ponder_session_destroy(other);
}

static void without_a_seed_each_submit_has_its_own(void) {
  ponder_request *r = ask(puzzle);
  ponder_session *s = new_session();
  transcript first, second;
  CHECK_OK(ponder_request_set_temperature(r, 3));
  CHECK_OK(ponder_request_set_top_p(r, 1));
  CHECK_OK(ponder_request_set_max_tokens(r, 60));
  run_request(s, r, &first);
  run_request(s, r, &second);
  CHECK(!same_tokens(&first, &second));
  ponder_request_destroy(r);
  ponder_session_destroy(s);
}

static void top_k_of_one_is_greedy(void) {
  ponder_request *r = ask(goldens[0].message);
  ponder_session *s = new_session();
  transcript t;
  CHECK_OK(ponder_request_set_temperature(r, 2));
  CHECK_OK(ponder_request_set_top_k(r, 1));
  run_request(s, r, &t);
  check_whole(&t);
  CHECK(t.all_count == goldens[0].greedy_count &&
        memcmp(t.all, goldens[0].greedy, t.all_count * sizeof *t.all) == 0);
  ponder_request_destroy(r);
  ponder_session_destroy(s);
}

static void forbidden_tokens_do_not_come(void) {
  ponder_request *r = ask_greedily(goldens[0].message);
  ponder_session *s = new_session();
  const ponder_token first = goldens[0].greedy[0];
  float bias = -INFINITY;
  transcript t;
  size_t i;
  CHECK_OK(ponder_request_set_logit_bias(r, &first, &bias, 1));
  CHECK_OK(ponder_request_set_max_tokens(r, 50));
  run_request(s, r, &t);
  check_whole(&t);
  for (i = 0; i < t.all_count; ++i) CHECK(t.all[i] != first);
  ponder_request_destroy(r);
  ponder_session_destroy(s);
}

static void favoured_tokens_come(void) {
  ponder_request *r = ask_greedily(puzzle);
  ponder_session *s = new_session();
  const ponder_token wanted = 42;
  float bias = 50;
  transcript t;
  size_t i;
  CHECK_OK(ponder_request_set_logit_bias(r, &wanted, &bias, 1));
  CHECK_OK(ponder_request_set_max_tokens(r, 5));
  run_request(s, r, &t);
  CHECK(t.all_count == 5);
  for (i = 0; i < t.all_count; ++i) CHECK(t.all[i] == wanted);
  /* A strong presence penalty drives it out again after the first. */
  CHECK_OK(ponder_request_set_penalties(r, 1, 100, 0));
  run_request(s, r, &t);
  CHECK(t.all_count == 5 && t.all[0] == wanted && t.all[1] != wanted);
  ponder_request_destroy(r);
  ponder_session_destroy(s);
}

static void stop_texts_end_the_answer_and_are_not_told(void) {
  ponder_request *r = ask_greedily(goldens[0].message);
  ponder_session *s = new_session();
  transcript whole, cut;
  const char *equals;
  run_request(s, r, &whole);
  equals = strstr(whole.answer, " = ");
  REQUIRE(equals != NULL);
  CHECK_OK(ponder_request_add_stop(r, "never said", PONDER_STRLEN));
  CHECK_OK(ponder_request_add_stop(r, " = ", PONDER_STRLEN));
  run_request(s, r, &cut);
  check_whole(&cut);
  CHECK(cut.finish == PONDER_FINISH_STOP);
  CHECK(strlen(cut.answer) == (size_t)(equals - whole.answer) &&
        strncmp(cut.answer, whole.answer, strlen(cut.answer)) == 0);
  CHECK(strcmp(cut.thought, whole.thought) ==
        0); /* thoughts are full of " = " alike; not searched */
  ponder_request_destroy(r);
  ponder_session_destroy(s);
}

static void ignore_eos_goes_on(void) {
  ponder_request *r = ask_greedily(goldens[0].message);
  ponder_session *s = new_session();
  const uint32_t n = (uint32_t)goldens[0].greedy_count + 10;
  transcript t;
  CHECK_OK(ponder_request_set_ignore_eos(r, 1));
  CHECK_OK(ponder_request_set_max_tokens(r, n));
  run_request(s, r, &t);
  check_whole(&t);
  CHECK(t.finish == PONDER_FINISH_LENGTH && t.all_count == n);
  CHECK(memcmp(t.all, goldens[0].greedy, goldens[0].greedy_count * sizeof *t.all) == 0);
  ponder_request_destroy(r);
  ponder_session_destroy(s);
}

/* Whether guesses are made hangs on the clock; what is said does not. */
static void speculation_changes_no_token(void) {
  static const float temperatures[] = {0, 1.2f};
  int i;
  for (i = 0; i < 2; ++i) {
    ponder_request *r = ask_greedily(long_puzzle);
    ponder_session *s = new_session();
    ponder_generation *g = NULL;
    ponder_event ev;
    ponder_stats stats;
    ponder_status st;
    transcript plain, guessed;
    CHECK_OK(ponder_request_set_temperature(r, temperatures[i]));
    CHECK_OK(ponder_request_set_seed(r, 11));
    CHECK_OK(ponder_request_set_ignore_eos(r, 1));
    CHECK_OK(ponder_request_set_max_tokens(r, 400));
    run_request(s, r, &plain);
    CHECK_OK(ponder_request_set_speculation(r, PONDER_SPECULATION_NGRAM, 0));
    run_request(s, r, &guessed);
    check_whole(&guessed);
    CHECK(same_tokens(&plain, &guessed));
    CHECK(strcmp(plain.thought, guessed.thought) == 0 && strcmp(plain.answer, guessed.answer) == 0);
    CHECK_OK(ponder_session_submit(s, r, &g, NULL));
    do {
      CHECK_OK(ponder_generation_wait(g, PONDER_FOREVER));
      while ((st = ponder_generation_next(g, &ev, sizeof ev, NULL)) == PONDER_OK) {
      }
    } while (st == PONDER_PENDING);
    CHECK(st == PONDER_DONE);
    CHECK_OK(ponder_generation_get_stats(g, &stats, sizeof stats));
    CHECK(stats.accepted_tokens <= stats.drafted_tokens);
    /* A step gives one token and those that were guessed right. */
    CHECK(stats.steps + stats.accepted_tokens == 400);
    CHECK_OK(ponder_model_get_stats(shared_model, &stats, sizeof stats));
    CHECK(stats.accepted_tokens <= stats.drafted_tokens);
    ponder_generation_destroy(g);
    ponder_request_destroy(r);
    ponder_session_destroy(s);
  }
}

/* The same weights drafting for themselves: what is checked is right, and the text is the same. */
static void a_draft_model_changes_no_token(void) {
  ponder_request *r = ask_greedily(long_puzzle);
  ponder_session *s = new_session();
  ponder_generation *g = NULL;
  ponder_model *draft = NULL;
  ponder_runtime *other_runtime = NULL;
  ponder_error *err = NULL;
  ponder_str words;
  ponder_model_info info;
  ponder_stats stats;
  transcript plain, guessed;
  CHECK_OK(ponder_request_set_ignore_eos(r, 1));
  CHECK_OK(ponder_request_set_max_tokens(r, 300));
  run_request(s, r, &plain);

  CHECK_OK(ponder_request_set_speculation(r, PONDER_SPECULATION_DRAFT_MODEL, 0));
  CHECK_STATUS(ponder_session_submit(s, r, &g, &err), PONDER_ERR_INVALID_ARGUMENT);
  ponder_error_get(err, NULL, &words);
  CHECK(words.size > 40 && g == NULL);
  ponder_error_destroy(err);
  CHECK_OK(ponder_request_set_draft_model(r, shared_model));
  CHECK_STATUS(ponder_session_submit(s, r, &g, NULL), PONDER_ERR_INVALID_ARGUMENT);
  CHECK_OK(ponder_runtime_create(NULL, &other_runtime, NULL));
  CHECK_OK(ponder_model_load(other_runtime, kCountdownModel, NULL, &draft, NULL));
  CHECK_OK(ponder_request_set_draft_model(r, draft));
  ponder_model_release(draft);
  ponder_runtime_release(other_runtime);
  CHECK_STATUS(ponder_session_submit(s, r, &g, NULL), PONDER_ERR_INVALID_ARGUMENT);

  CHECK_OK(ponder_model_load(shared_runtime, kCountdownModel, NULL, &draft, NULL));
  CHECK_OK(ponder_request_set_draft_model(r, draft));
  run_request(s, r, &guessed);
  check_whole(&guessed);
  CHECK(same_tokens(&plain, &guessed));
  CHECK_OK(ponder_model_get_stats(draft, &stats, sizeof stats));
  CHECK(stats.prompt_tokens == 0 && stats.answer_tokens == 0 && stats.running == 0);
  ponder_model_release(draft); /* the request keeps it */
  run_request(s, r, &guessed);
  CHECK(same_tokens(&plain, &guessed));

  CHECK_OK(ponder_request_set_speculation(r, PONDER_SPECULATION_MTP, 0));
  CHECK_STATUS(ponder_session_submit(s, r, &g, NULL), PONDER_ERR_UNSUPPORTED);
  CHECK_OK(ponder_model_get_info(shared_model, &info, sizeof info));
  CHECK(info.has_draft_layer == 0);
  ponder_request_destroy(r);
  ponder_session_destroy(s);
}

static void a_draft_layer_is_refused_where_there_is_none(void) {
  ponder_model_options *o = NULL;
  ponder_model *m = NULL;
  ponder_error *err = NULL;
  ponder_str words;
  CHECK_OK(ponder_model_options_create(&o));
  CHECK_OK(ponder_model_options_set_draft_layer(o, 1));
  CHECK_STATUS(ponder_model_load(shared_runtime, kCountdownModel, o, &m, &err),
               PONDER_ERR_UNSUPPORTED);
  ponder_error_get(err, NULL, &words);
  CHECK(words.size > 40 && m == NULL);
  ponder_error_destroy(err);
  ponder_model_options_destroy(o);
}

/* Guesses by the checkpoint's own layer, with a checkpoint that has one. */
static void a_draft_layer_changes_no_token(void) {
  static const ponder_token prompt[] = {0, 11, 42, 99, 7, 12, 300, 41, 5};
  ponder_model_options *o = NULL;
  ponder_model *m = NULL;
  ponder_session *s = NULL;
  ponder_request *r = NULL;
  ponder_model_info info;
  ponder_stats stats;
  transcript plain, guessed;
  if (access(kMixtureModel, R_OK) != 0) {
    printf("# no reference data at %s\n", kMixtureModel);
    return;
  }
  CHECK_OK(ponder_model_options_create(&o));
  CHECK_OK(ponder_model_options_set_draft_layer(o, 1));
  CHECK_OK(ponder_model_load(shared_runtime, kMixtureModel, o, &m, NULL));
  CHECK_OK(ponder_model_get_info(m, &info, sizeof info));
  CHECK(info.has_draft_layer == 1 && info.layers == 3);
  CHECK_OK(ponder_session_create(m, &s, NULL));
  CHECK_OK(ponder_request_create(&r));
  CHECK_OK(ponder_request_set_tokens(r, prompt, sizeof prompt / sizeof *prompt));
  CHECK_OK(ponder_request_set_temperature(r, 1));
  CHECK_OK(ponder_request_set_seed(r, 3));
  CHECK_OK(ponder_request_set_ignore_eos(r, 1));
  CHECK_OK(ponder_request_set_max_tokens(r, 200));
  run_request(s, r, &plain);
  CHECK_OK(ponder_request_set_speculation(r, PONDER_SPECULATION_MTP, 2));
  run_request(s, r, &guessed);
  CHECK(same_tokens(&plain, &guessed));
  CHECK_OK(ponder_model_get_stats(m, &stats, sizeof stats));
  CHECK(stats.accepted_tokens <= stats.drafted_tokens);
  ponder_request_destroy(r);
  ponder_session_destroy(s);
  ponder_model_release(m);
  ponder_model_options_destroy(o);
}

static void logprobs_agree_with_score(void) {
  ponder_request *r = NULL;
  ponder_session *s = new_session();
  ponder_generation *g = NULL;
  ponder_event ev;
  ponder_status st;
  const golden *gold = &goldens[0];
  ponder_token tokens[400];
  float expected[400];
  size_t at = gold->prompt_count, told = 0, k;
  memcpy(tokens, gold->prompt, gold->prompt_count * sizeof *tokens);
  memcpy(tokens + gold->prompt_count, gold->greedy, gold->greedy_count * sizeof *tokens);
  CHECK_OK(ponder_model_score(shared_model, tokens, gold->prompt_count + gold->greedy_count, 0,
                              expected, NULL, NULL, NULL));
  CHECK_OK(ponder_request_create(&r));
  CHECK_OK(ponder_request_set_tokens(r, gold->prompt, gold->prompt_count));
  CHECK_OK(ponder_request_set_temperature(r, 0));
  CHECK_OK(ponder_request_set_logprobs(r, 4));
  CHECK_OK(ponder_session_submit(s, r, &g, NULL));
  do {
    st = ponder_generation_wait(g, PONDER_FOREVER);
    while ((st = ponder_generation_next(g, &ev, sizeof ev, NULL)) == PONDER_OK) {
      if (ev.kind != PONDER_EVENT_THOUGHT && ev.kind != PONDER_EVENT_ANSWER) continue;
      REQUIRE(ev.token_count == 0 ||
              (ev.logprobs != NULL && ev.top_count == 4 && ev.top_tokens != NULL));
      for (k = 0; k < ev.token_count; ++k, ++told) {
        /* Markers between thought and answer are in no event: find the place. */
        while (at < gold->prompt_count + gold->greedy_count && tokens[at] != ev.tokens[k]) ++at;
        REQUIRE(at < gold->prompt_count + gold->greedy_count);
        CHECK(fabsf(ev.logprobs[k] - expected[at - 1]) < 1e-4f);
        CHECK(ev.top_tokens[4 * k] == ev.tokens[k]); /* greedy */
        CHECK(ev.top_logprobs[4 * k] >= ev.top_logprobs[4 * k + 1] &&
              ev.top_logprobs[4 * k + 1] >= ev.top_logprobs[4 * k + 3]);
        ++at;
      }
    }
  } while (st == PONDER_PENDING);
  CHECK_STATUS(st, PONDER_DONE);
  CHECK(told > 30);
  ponder_generation_destroy(g);

  CHECK_OK(ponder_request_set_logprobs(r, -1));
  CHECK_OK(ponder_request_set_max_tokens(r, 2));
  CHECK_OK(ponder_session_submit(s, r, &g, NULL));
  while (ponder_generation_wait(g, PONDER_FOREVER) == PONDER_OK)
    if (ponder_generation_next(g, &ev, sizeof ev, NULL) == PONDER_OK)
      CHECK(ev.logprobs == NULL && ev.top_count == 0 && ev.top_tokens == NULL);
  ponder_generation_destroy(g);
  ponder_request_destroy(r);
  ponder_session_destroy(s);
}

/* ---- sessions ---------------------------------------------------------------------------------
 */

static void sessions_reuse_what_they_hold(void) {
  ponder_request *r = ask_greedily(puzzle);
  ponder_session *s = new_session();
  transcript first, second;
  CHECK(ponder_session_token_count(s) == 0);
  CHECK_OK(ponder_request_set_max_tokens(r, 40));
  run_request(s, r, &first);
  CHECK(ponder_session_token_count(s) >= first.prompt_tokens);
  run_request(s, r, &second);
  CHECK(second.cached_tokens > 0 && second.cached_tokens < second.prompt_tokens);
  CHECK(same_tokens(&first, &second));
  ponder_request_destroy(r);
  ponder_session_destroy(s);
}

static void sessions_fork_and_truncate(void) {
  ponder_request *r = ask_greedily(puzzle);
  ponder_session *s = new_session(), *twin = NULL;
  transcript first, second;
  uint32_t count;
  CHECK_OK(ponder_request_set_max_tokens(r, 40));
  run_request(s, r, &first);
  count = ponder_session_token_count(s);
  CHECK_OK(ponder_session_fork(s, &twin));
  REQUIRE(twin != NULL);
  CHECK(ponder_session_token_count(twin) == count);
  CHECK_OK(ponder_session_truncate(s, count / 2));
  CHECK(ponder_session_token_count(s) == count / 2);
  CHECK_INVALID(ponder_session_truncate(s, count));
  CHECK(ponder_session_token_count(twin) == count); /* not touched */
  CHECK_OK(ponder_session_truncate(twin, 0));
  CHECK(ponder_session_token_count(twin) == 0);
  run_request(twin, r, &second);
  CHECK(same_tokens(&first, &second));
  run_request(s, r, &second);
  CHECK(same_tokens(&first, &second));
  CHECK_INVALID(ponder_session_fork(s, NULL));
  ponder_session_destroy(s);
  run_request(twin, r, &second);
  CHECK(same_tokens(&first, &second));
  ponder_session_destroy(twin);
  ponder_request_destroy(r);
}

static void sessions_run_together_and_stay_apart(void) {
  enum { N = 6 };
  ponder_session *s[N];
  ponder_generation *g[N];
  ponder_request *r[N];
  static transcript t[N];
  int i, running = N;
  for (i = 0; i < N; ++i) {
    s[i] = new_session();
    r[i] = ask_greedily(goldens[i].message);
    g[i] = NULL;
    memset(&t[i], 0, sizeof t[i]);
    CHECK_OK(ponder_session_submit(s[i], r[i], &g[i], NULL));
  }
  while (running > 0) {
    running = 0;
    for (i = 0; i < N; ++i) running += pull(g[i], &t[i]);
    if (running > 0) sleep_us(1000);
  }
  for (i = 0; i < N; ++i) {
    check_whole(&t[i]);
    CHECK(t[i].all_count == goldens[i].greedy_count &&
          memcmp(t[i].all, goldens[i].greedy, t[i].all_count * sizeof(ponder_token)) == 0);
    ponder_generation_destroy(g[i]);
    ponder_request_destroy(r[i]);
    ponder_session_destroy(s[i]);
  }
}

/* ---- next, wait, wakers ------------------------------------------------------------------------
 */

static void next_pends_then_gives_then_is_done_for_ever(void) {
  ponder_request *r = ask_greedily(puzzle);
  ponder_session *s = new_session();
  ponder_generation *g = NULL;
  ponder_event ev, zero;
  transcript t;
  memset(&zero, 0, sizeof zero);
  CHECK_OK(ponder_request_set_max_tokens(r, 3));
  CHECK_OK(ponder_session_submit(s, r, &g, NULL));
  CHECK_INVALID(ponder_generation_next(g, NULL, sizeof ev, NULL));
  CHECK_INVALID(ponder_generation_next(g, &ev, 0, NULL));
  pull_all(g, &t);
  check_whole(&t); /* the refused calls took no event */
  memset(&ev, 0xAA, sizeof ev);
  CHECK_STATUS(ponder_generation_next(g, &ev, sizeof ev, NULL), PONDER_DONE);
  CHECK(memcmp(&ev, &zero, sizeof ev) == 0);
  CHECK_STATUS(ponder_generation_next(g, &ev, sizeof ev, NULL), PONDER_DONE);
  CHECK_STATUS(ponder_generation_wait(g, 0), PONDER_DONE);
  CHECK_STATUS(ponder_generation_wait(g, PONDER_FOREVER), PONDER_DONE);
  ponder_generation_destroy(g);
  ponder_request_destroy(r);
  ponder_session_destroy(s);
}

static void wait_takes_no_longer_than_told(void) {
  ponder_request *r = think_for_long();
  ponder_session *s = new_session();
  ponder_generation *g = NULL;
  transcript t;
  uint64_t start;
  CHECK_OK(ponder_session_submit(s, r, &g, NULL));
  start = now_us();
  memset(&t, 0, sizeof t);
  while (pull(g, &t) && now_us() - start < 20000) {
    const ponder_status st = ponder_generation_wait(g, 1000);
    CHECK(st == PONDER_OK || st == PONDER_PENDING);
  }
  CHECK(now_us() - start < 5000000);
  ponder_generation_destroy(g);
  ponder_request_destroy(r);
  ponder_session_destroy(s);
}

typedef struct bell {
  pthread_mutex_t mutex;
  pthread_cond_t condition;
  int rings;
} bell;
static void ring(void *user) {
  bell *b = user;
  pthread_mutex_lock(&b->mutex);
  ++b->rings;
  pthread_cond_signal(&b->condition);
  pthread_mutex_unlock(&b->mutex);
}

static void wakers_tell_when_to_ask(void) {
  bell b = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0};
  ponder_request *r = ask_greedily(goldens[0].message);
  ponder_session *s = new_session();
  ponder_generation *g = NULL;
  transcript t;
  memset(&t, 0, sizeof t);
  CHECK_OK(ponder_session_submit(s, r, &g, NULL));
  ponder_generation_set_waker(g, ring, &b);
  /* Sleeps only when there is nothing, and is woken whenever there is something. */
  while (pull(g, &t)) {
    struct timespec end;
    int timed_out = 0;
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += 20;
    pthread_mutex_lock(&b.mutex);
    while (b.rings == 0 && !timed_out)
      timed_out = pthread_cond_timedwait(&b.condition, &b.mutex, &end) != 0;
    b.rings = 0;
    pthread_mutex_unlock(&b.mutex);
    REQUIRE(!timed_out);
  }
  check_whole(&t);
  ponder_generation_set_waker(g, NULL, NULL);
  ponder_generation_destroy(g);
  ponder_request_destroy(r);
  ponder_session_destroy(s);
}

typedef struct nested {
  ponder_generation *g;
  ponder_session *s;
  ponder_request *r;
  ponder_runtime *rt;
  int calls;
  ponder_status waited, submitted, truncated, scored, loaded;
} nested;
static void misbehave(void *user) {
  nested *n = user;
  ponder_generation *g = NULL;
  ponder_model *m = NULL;
  const ponder_token token = 1;
  if (__atomic_fetch_add(&n->calls, 1, __ATOMIC_SEQ_CST) != 0) return;
  n->waited = ponder_generation_wait(n->g, PONDER_FOREVER);
  n->submitted = ponder_session_submit(n->s, n->r, &g, NULL);
  n->truncated = ponder_session_truncate(n->s, 0);
  n->scored = ponder_model_score(shared_model, &token, 1, 0, NULL, NULL, NULL, NULL);
  n->loaded = ponder_model_load(n->rt, kCountdownModel, NULL, &m, NULL);
  /* These are allowed. */
  ponder_generation_close_thought(n->g);
  ponder_generation_set_waker(n->g, misbehave, n);
  ponder_generation_cancel(n->g);
}

static void calls_that_could_wait_inside_a_callback_are_busy(void) {
  nested n;
  ponder_session *other = new_session();
  transcript t;
  memset(&n, 0, sizeof n);
  n.r = think_for_long();
  n.s = other;
  n.rt = shared_runtime;
  {
    ponder_session *s = new_session();
    CHECK_OK(ponder_session_submit(s, n.r, &n.g, NULL));
    ponder_generation_set_waker(n.g, misbehave, &n);
    memset(&t, 0, sizeof t);
    /* Not wait(): the host thread must find the generation running for a while. */
    while (pull(n.g, &t)) sleep_us(200);
    ponder_session_destroy(s);
  }
  CHECK(t.finish == PONDER_FINISH_CANCELLED || t.finish == PONDER_FINISH_LENGTH);
  CHECK(n.calls > 0);
  CHECK_STATUS(n.waited, PONDER_ERR_BUSY);
  CHECK_STATUS(n.submitted, PONDER_ERR_BUSY);
  CHECK_STATUS(n.truncated, PONDER_ERR_BUSY);
  CHECK_STATUS(n.scored, PONDER_ERR_BUSY);
  CHECK_STATUS(n.loaded, PONDER_ERR_BUSY);
  ponder_generation_destroy(n.g);
  ponder_request_destroy(n.r);
  ponder_session_destroy(other);
}

static void user_data_is_kept(void) {
  ponder_request *r = ask_greedily(puzzle);
  ponder_session *s = new_session();
  ponder_generation *g = NULL;
  int mine;
  CHECK_OK(ponder_request_set_max_tokens(r, 1));
  CHECK_OK(ponder_session_submit(s, r, &g, NULL));
  CHECK(ponder_generation_get_user_data(g) == NULL);
  ponder_generation_set_user_data(g, &mine);
  CHECK(ponder_generation_get_user_data(g) == &mine);
  ponder_generation_destroy(g);
  ponder_request_destroy(r);
  ponder_session_destroy(s);
}

static void stats_of_a_generation_count_its_tokens(void) {
  ponder_request *r = ask_greedily(goldens[0].message);
  ponder_session *s = new_session();
  ponder_generation *g = NULL;
  ponder_stats stats;
  transcript t;
  CHECK_OK(ponder_session_submit(s, r, &g, NULL));
  pull_all(g, &t);
  CHECK_OK(ponder_generation_get_stats(g, &stats, sizeof stats));
  CHECK(stats.prompt_tokens == t.prompt_tokens && stats.cached_tokens == t.cached_tokens);
  CHECK(stats.thought_tokens == t.thought_tokens && stats.answer_tokens == t.answer_tokens);
  CHECK(stats.steps >= t.all_count);
  CHECK(stats.prefill_us > 0 && stats.decode_us > 0);
  CHECK(stats.decode_tokens_per_s > 0);
  CHECK_INVALID(ponder_generation_get_stats(g, NULL, sizeof stats));
  ponder_generation_destroy(g);
  ponder_request_destroy(r);
  ponder_session_destroy(s);
}

int main(int argc, char **argv) {
  harness_begin(argc, argv);
  if (!shared_begin()) return 1;
  RUN(greedy_answers_are_those_of_the_reference);
  RUN(text_and_tokens_make_the_same_prompt_as_a_chat);
  RUN(text_without_flags_is_plain);
  RUN(max_tokens_ends_with_length);
  RUN(a_generation_without_room_left_ends_with_length);
  RUN(submit_checks_the_request);
  RUN(the_hard_budget_closes_the_thought_for_certain);
  RUN(the_closing_sentence_is_said_before_a_forced_close);
  RUN(the_soft_budget_closes_no_later_than_the_hard_one);
  RUN(reasoning_off_gives_an_answer_at_once);
  RUN(reasoning_on_is_what_the_template_does_anyway);
  RUN(hidden_thoughts_are_counted_and_not_told);
  RUN(answer_now_from_another_thread);
  RUN(cancel_from_another_thread_ends_with_cancelled);
  RUN(a_session_goes_on_after_a_cancel);
  RUN(destroying_a_session_ends_its_generation);
  RUN(destroying_a_generation_frees_its_session);
  RUN(one_generation_at_a_time_per_session);
  RUN(the_same_seed_gives_the_same_tokens);
  RUN(without_a_seed_each_submit_has_its_own);
  RUN(top_k_of_one_is_greedy);
  RUN(forbidden_tokens_do_not_come);
  RUN(favoured_tokens_come);
  RUN(stop_texts_end_the_answer_and_are_not_told);
  RUN(ignore_eos_goes_on);
  RUN(speculation_changes_no_token);
  RUN(a_draft_model_changes_no_token);
  RUN(a_draft_layer_is_refused_where_there_is_none);
  RUN(a_draft_layer_changes_no_token);
  RUN(logprobs_agree_with_score);
  RUN(sessions_reuse_what_they_hold);
  RUN(sessions_fork_and_truncate);
  RUN(sessions_run_together_and_stay_apart);
  RUN(next_pends_then_gives_then_is_done_for_ever);
  RUN(wait_takes_no_longer_than_told);
  RUN(wakers_tell_when_to_ask);
  RUN(calls_that_could_wait_inside_a_callback_are_busy);
  RUN(user_data_is_kept);
  RUN(stats_of_a_generation_count_its_tokens);
  shared_end();
  return harness_end();
}
