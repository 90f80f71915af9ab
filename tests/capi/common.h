/* What the tests of the C API share: the model, a transcript of a generation, threads and clocks.
 */
#ifndef PONDER_TESTS_CAPI_COMMON_H_
#define PONDER_TESTS_CAPI_COMMON_H_

#include <pthread.h>
#include <time.h>
#include <unistd.h>

#include "tests/capi/harness.h"
#include "tests/paths/paths.h"

#define EOS 308 /* of the countdown model */
#define THOUGHT_CLOSE 312

/* All that a generation said. */
typedef struct transcript {
  char thought[8192], answer[8192];
  ponder_token tokens[2048]; /* of the THOUGHT and ANSWER events */
  ponder_token all[2048];    /* of FINISHED */
  size_t token_count, all_count;
  int started, thought_ends, finished, after_finished, unknown;
  int32_t thought_finish, finish;
  uint32_t prompt_tokens, cached_tokens, thought_tokens, answer_tokens;
  ponder_status last; /* what next() ended with */
  char error[512];
} transcript;

static MAYBE_UNUSED int is_utf8(const char *text, size_t size) {
  const unsigned char *p = (const unsigned char *)text, *end = p + size;
  while (p < end) {
    const unsigned char c = *p++;
    int more = c < 0x80 ? 0 : c >= 0xF0 && c < 0xF5 ? 3 : c >= 0xE0 ? 2 : c >= 0xC2 ? 1 : -1;
    if (c >= 0xF5 || more < 0 || end - p < more) return 0;
    for (; more > 0; --more)
      if ((*p++ & 0xC0) != 0x80) return 0;
  }
  return 1;
}

/* Adds one event; also holds it to what ponder.h promises of every event. */
static MAYBE_UNUSED void take_event(transcript *t, const ponder_event *ev) {
  if (t->finished) t->after_finished = 1;
  CHECK(ev->text.size == 0 || is_utf8(ev->text.data, ev->text.size));
  CHECK((ev->tokens != NULL) == (ev->token_count != 0));
  CHECK(ev->prompt_tokens >= t->prompt_tokens && ev->thought_tokens >= t->thought_tokens &&
        ev->answer_tokens >= t->answer_tokens);
  CHECK(ev->kind == PONDER_EVENT_STARTED || t->started ||
        (ev->kind == PONDER_EVENT_FINISHED && ev->finish == PONDER_FINISH_CANCELLED));
  t->prompt_tokens = ev->prompt_tokens;
  t->cached_tokens = ev->cached_tokens;
  t->thought_tokens = ev->thought_tokens;
  t->answer_tokens = ev->answer_tokens;
  if (ev->kind == PONDER_EVENT_THOUGHT || ev->kind == PONDER_EVENT_ANSWER) {
    char *to = ev->kind == PONDER_EVENT_THOUGHT ? t->thought : t->answer;
    size_t have = strlen(to);
    CHECK(ev->kind == PONDER_EVENT_ANSWER || t->thought_ends == 0);
    if (have + ev->text.size < sizeof t->thought) {
      if (ev->text.size != 0) memcpy(to + have, ev->text.data, ev->text.size);
      to[have + ev->text.size] = 0;
    }
    if (t->token_count + ev->token_count <= sizeof t->tokens / sizeof *t->tokens) {
      if (ev->token_count != 0)
        memcpy(t->tokens + t->token_count, ev->tokens, ev->token_count * sizeof *ev->tokens);
      t->token_count += ev->token_count;
    }
  } else if (ev->kind == PONDER_EVENT_STARTED) {
    ++t->started;
  } else if (ev->kind == PONDER_EVENT_THOUGHT_END) {
    ++t->thought_ends;
    t->thought_finish = ev->finish;
  } else if (ev->kind == PONDER_EVENT_FINISHED) {
    t->finished = 1;
    t->finish = ev->finish;
    if (ev->token_count <= sizeof t->all / sizeof *t->all) {
      if (ev->token_count != 0) memcpy(t->all, ev->tokens, ev->token_count * sizeof *ev->tokens);
      t->all_count = ev->token_count;
    }
  } else if (ev->kind != PONDER_EVENT_PREFILL) {
    t->unknown = 1;
  }
}

/* Pulls everything that is there; true while the generation goes on. */
static MAYBE_UNUSED int pull(ponder_generation *g, transcript *t) {
  ponder_event ev;
  ponder_error *err = NULL;
  ponder_str words;
  while ((t->last = ponder_generation_next(g, &ev, sizeof ev, &err)) == PONDER_OK)
    take_event(t, &ev);
  if (t->last < 0) {
    ponder_error_get(err, NULL, &words);
    snprintf(t->error, sizeof t->error, "%.*s", (int)words.size, words.data);
    ponder_error_destroy(err);
  }
  return t->last == PONDER_PENDING;
}

/* Pulls until the end; t is filled anew. */
static MAYBE_UNUSED void pull_all(ponder_generation *g, transcript *t) {
  memset(t, 0, sizeof *t);
  while (pull(g, t)) {
    const ponder_status st = ponder_generation_wait(g, PONDER_FOREVER);
    if (st != PONDER_OK) {
      CHECK_OK(st);
      return;
    }
  }
}

/* What a generation that ran to its end must look like. */
static MAYBE_UNUSED void check_whole(const transcript *t) {
  if (t->last != PONDER_DONE) printf("# %s\n", t->error);
  CHECK_STATUS(t->last, PONDER_DONE);
  CHECK(t->started == 1 && t->finished && !t->after_finished && !t->unknown);
  CHECK(t->thought_ends <= 1);
  CHECK(t->finish >= PONDER_FINISH_STOP && t->finish <= PONDER_FINISH_CANCELLED);
}

/* A chat of one user message as a request. */
static MAYBE_UNUSED ponder_request *ask(const char *message) {
  ponder_chat *chat = NULL;
  ponder_request *r = NULL;
  CHECK_OK(ponder_chat_create(&chat));
  CHECK_OK(ponder_chat_add(chat, PONDER_ROLE_USER, message, PONDER_STRLEN));
  CHECK_OK(ponder_request_create(&r));
  CHECK_OK(ponder_request_set_chat(r, chat));
  ponder_chat_destroy(chat);
  return r;
}

/* Submits, pulls to the end, gives the generation back. */
static MAYBE_UNUSED void run_request(ponder_session *s, const ponder_request *r, transcript *t) {
  ponder_generation *g = NULL;
  ponder_error *err = NULL;
  memset(t, 0, sizeof *t);
  REQUIRE_OK(ponder_session_submit(s, r, &g, &err), err);
  pull_all(g, t);
  ponder_generation_destroy(g);
}

static MAYBE_UNUSED uint64_t now_us(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static MAYBE_UNUSED void sleep_us(long us) {
  struct timespec t = {us / 1000000, us % 1000000 * 1000};
  nanosleep(&t, NULL);
}

static MAYBE_UNUSED pthread_t spawn(void *(*body)(void *), void *arg) {
  pthread_t thread;
  if (pthread_create(&thread, NULL, body, arg) != 0) {
    printf("# no thread could be made\n");
    exit(1);
  }
  return thread;
}

/* A runtime and the countdown model in float32, made once by the programs that do not test making
 * them. */
static ponder_runtime *shared_runtime;
static ponder_model *shared_model;

static MAYBE_UNUSED int shared_begin(void) {
  ponder_runtime_options *ro = NULL;
  ponder_model_options *mo = NULL;
  ponder_error *err = NULL;
  ponder_status st = ponder_runtime_options_create(&ro);
  if (st == PONDER_OK) st = ponder_runtime_options_set_threads(ro, 2);
  if (st == PONDER_OK) st = ponder_runtime_create(ro, &shared_runtime, &err);
  if (st == PONDER_OK) st = ponder_model_options_create(&mo);
  if (st == PONDER_OK) st = ponder_model_options_set_precision(mo, PONDER_PRECISION_F32);
  if (st == PONDER_OK)
    st = ponder_model_load(shared_runtime, kCountdownModel, mo, &shared_model, &err);
  ponder_model_options_destroy(mo);
  ponder_runtime_options_destroy(ro);
  return harness_ok(__FILE__, __LINE__, "loading the shipped model", st, err);
}
static MAYBE_UNUSED void shared_end(void) {
  ponder_model_release(shared_model);
  ponder_runtime_release(shared_runtime);
}

#endif /* PONDER_TESTS_CAPI_COMMON_H_ */
