// ponder.hpp: handles that clean up, failures thrown or handed over, events as a range. Built with
// exceptions and without; C++11.
#include <ponder/ponder.hpp>

#include <cstdio>
#include <utility>

#include "tests/paths/paths.h"

namespace {

int failures = 0;
#define CHECK(condition)                                            \
  do {                                                              \
    if (!(condition)) {                                             \
      std::printf("# %s:%d: %s\n", __FILE__, __LINE__, #condition); \
      ++failures;                                                   \
    }                                                               \
  } while (false)

void errors_are_handed_over() {
  ponder::Runtime runtime;
  ponder::Error error;
  const ponder::Model model = ponder::Model::load(runtime, "/no/such/folder", &error);
  CHECK(!model && error && error.status() == PONDER_ERR_NOT_FOUND);
  CHECK(error.message().find("/no/such/folder") != std::string::npos);
  CHECK(error.what() == error.message());
  const ponder::Runtime again(&error);
  CHECK(again && !error);  // a success clears it
}

void errors_are_thrown_where_that_is_possible() {
#if defined(__cpp_exceptions)
  ponder::Runtime runtime;
  bool caught = false;
  try {
    ponder::Model::load(runtime, "/no/such/folder");
  } catch (const ponder::Error &error) {
    caught = error.status() == PONDER_ERR_NOT_FOUND;
  }
  CHECK(caught);
  caught = false;
  try {
    ponder::Request().temperature(-1);
  } catch (const std::exception &error) {
    caught = error.what() == std::string("PONDER_ERR_INVALID_ARGUMENT");
  }
  CHECK(caught);
#else
  // Kept, and told by the call that matters.
  ponder::Runtime runtime;
  ponder::Model model = ponder::Model::load(runtime, kCountdownModel);
  CHECK(!model.info().has_draft_layer);
  ponder::Session session(model);
  ponder::Request request;
  request.text("a").temperature(-1).temperature(1);
  CHECK(request.failure() == PONDER_ERR_INVALID_ARGUMENT);
  ponder::Error error;
  const ponder::Generation none = session.submit(request, &error);
  CHECK(!none && error.status() == PONDER_ERR_INVALID_ARGUMENT);
#endif
}

void a_model_thinks_and_answers() {
  ponder::RuntimeOptions runtime_options;
  runtime_options.threads(1).drive(PONDER_DRIVE_THREAD);
  ponder::Runtime runtime(runtime_options);
  CHECK(runtime.device_count() >= 1);
  CHECK(!ponder::Text(runtime.device(0).name).empty());

  int reports = 0;
  ponder::ModelOptions options;
  options.precision(PONDER_PRECISION_F32).progress([&](uint64_t done, uint64_t total) {
    ++reports;
    return done <= total;
  });
  ponder::Model model = ponder::Model::load(runtime, kCountdownModel, options);
  CHECK(reports > 0);
  CHECK(model.info().vocabulary == 320);
  CHECK(!model.chat_template().empty());
  CHECK(model.stats().steps == 0);

  const std::vector<ponder_token> tokens = model.tokenize("Use 3, 5 and 7");
  CHECK(tokens.size() > 3 && model.detokenize(tokens) == "Use 3, 5 and 7");
  CHECK(model.token_text(312) == "</think>");
  const ponder::Scores scores = model.score(tokens, 2);
  CHECK(scores.logprobs.size() == tokens.size() - 1);
  CHECK(scores.top_tokens.size() == 2 * tokens.size());

  ponder::Chat chat;
  chat.add_user("Using the numbers 7, 11 and 15, reach 33.");
  CHECK(chat.message_count() == 1);
  CHECK(chat.render(model).find("7, 11 and 15") != std::string::npos);
  ponder::Session session(model);

  std::string thought, answer;
  int finished = 0;
  for (const ponder::Event &event : session.submit(ponder::Request().chat(chat).temperature(0))) {
    if (event.kind() == PONDER_EVENT_THOUGHT) thought += event.text().str();
    if (event.kind() == PONDER_EVENT_ANSWER) answer += event.text().str();
    if (event.kind() == PONDER_EVENT_FINISHED) {
      ++finished;
      CHECK(event.tokens().size() == 58 && event.finish() == PONDER_FINISH_STOP);
    }
  }
  CHECK(finished == 1 && answer == "15+7+11 = 33");
  CHECK(thought.find("22+11=33 yes") != std::string::npos);

  // The second turn, its parts apart.
  chat.add_assistant(thought, answer).add_user("Make 15 from 25, 1 and 9.");
  CHECK(chat.json().find("reasoning_content") != std::string::npos);
  ponder::Generation generation = session.submit(
      ponder::Request().chat(chat).temperature(0).thought_budget(0, 20).max_tokens(60));
  const ponder::Reply reply = generation.collect();
  CHECK(!reply.thought.empty() && reply.finish != 0);
  CHECK(generation.stats().prompt_tokens > 20);

  ponder::Session fork = session.fork();
  CHECK(fork.token_count() == session.token_count());
  CHECK(fork.truncate(3) && fork.token_count() == 3);
}

void handles_move_and_clean_up() {
  ponder::Runtime runtime;
  ponder::Model model = ponder::Model::load(runtime, kCountdownModel);
  ponder::Model second = model.retain();
  ponder::Model moved = std::move(model);
  CHECK(!model && moved && second.get() == moved.get());
  ponder::Session session(moved);
  ponder::Generation generation =
      session.submit(ponder::Request().text("I need").max_tokens(500).ignore_eos());
  runtime = ponder::Runtime();  // any order
  moved = std::move(second);
  generation.cancel();
  CHECK(generation.collect().finish == PONDER_FINISH_CANCELLED);
  ponder::Generation empty;
  CHECK(!empty);
  std::swap(empty, generation);
  CHECK(empty && !generation);
}

void progress_can_stop() {
  ponder::Runtime runtime;
  ponder::ModelOptions options;
  options.progress([](uint64_t, uint64_t) { return false; });
  ponder::Error error;
  CHECK(!ponder::Model::load(runtime, kCountdownModel, options, &error));
  CHECK(error.status() == PONDER_ERR_CANCELLED);
#if defined(__cpp_exceptions)
  options.progress([](uint64_t, uint64_t) -> bool { throw 3; });
  CHECK(!ponder::Model::load(runtime, kCountdownModel, options, &error));
  CHECK(error.status() == PONDER_ERR_CANCELLED);
#endif
}

}  // namespace

int main() {
  errors_are_handed_over();
  errors_are_thrown_where_that_is_possible();
  a_model_thinks_and_answers();
  handles_move_and_clean_up();
  progress_can_stop();
  std::printf("%s\n", failures == 0 ? "ok" : "not ok");
  return failures != 0;
}
