// `ponder eval countdown`: how many puzzles a model solves, checked exactly.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <fstream>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "commands.h"
#include "countdown.h"
#include "follow.h"
#include "options.h"

namespace ponder::tool {
namespace {

struct EvalArguments {
  ModelArguments model;
  SamplingArguments sampling;
  uint32_t count = 200;
  uint64_t seed = 1;
  uint32_t sessions = 16;
  std::string log_file;
  bool json = false;
};

struct Question {
  Puzzle puzzle;
  std::string prompt;
};

struct Tally {
  uint32_t done = 0, solved = 0, closed = 0;
  uint64_t thought_tokens = 0, tokens = 0;
};

// One of the requests under way at a time.
struct Slot {
  explicit Slot(const Model& model) : session(model) {}

  Session session;
  Generation generation;  // empty: free
  size_t question = 0;
  Outcome outcome;
};

// Sleeps until some generation has news.
class News {
 public:
  static void tell(void* self) {
    auto* news = static_cast<News*>(self);
    const std::scoped_lock lock(news->mutex_);
    news->waiting_ = true;
    news->condition_.notify_one();
  }
  void await() {
    std::unique_lock lock(mutex_);
    condition_.wait(lock, [this] { return waiting_; });
    waiting_ = false;
  }

 private:
  std::mutex mutex_;
  std::condition_variable condition_;
  bool waiting_ = false;
};

class Evaluation {
 public:
  // All three must outlive the evaluation, `news` the runtime as well.
  Evaluation(const EvalArguments& args, const Loaded& loaded, News& news)
      : args_(args), loaded_(loaded), news_(news) {
    PythonRandom random(args.seed);
    for (uint32_t i = 0; i < args.count; ++i) {
      Question question;
      question.puzzle = make_puzzle(random);
      question.prompt = puzzle_prompt(question.puzzle, random);
      questions_.push_back(std::move(question));
    }
    if (!args.log_file.empty()) {
      log_.open(args.log_file, std::ios::binary);
      if (!log_) throw Failure("cannot write --log '" + args.log_file + "'");
    }
  }

  Tally run() {
    std::vector<Slot> slots;
    const size_t at_once = std::min<size_t>(args_.sessions, questions_.size());
    for (size_t i = 0; i < at_once; ++i) slots.emplace_back(loaded_.model);
    while (tally_.done < questions_.size()) {
      bool moved = false;
      for (Slot& slot : slots) {
        if (!slot.generation && next_ < questions_.size()) {
          ask(slot);
          moved = true;
        }
        if (slot.generation && pull(slot)) {
          finish(slot);
          moved = true;
        }
      }
      if (!moved) news_.await();
    }
    if (!args_.log_file.empty() && !log_.flush()) {
      throw Failure("writing --log '" + args_.log_file + "' failed");
    }
    return tally_;
  }

 private:
  void ask(Slot& slot) {
    slot.question = next_++;
    slot.outcome = {};
    Request request;
    request.chat(Chat().add_user(questions_[slot.question].prompt));
    args_.sampling.apply(request);
    loaded_.add_draft_model(request);
    // Every puzzle its own stream of choices, the same ones however many run side by side.
    request.seed(args_.seed * 1'000'003 + slot.question);
    slot.generation = slot.session.submit(request);
    slot.generation.set_waker(News::tell, &news_);
  }

  // Takes what has happened so far; true at the end.
  static bool pull(Slot& slot) {
    Event event;
    for (;;) {
      const ponder_status status = slot.generation.next(event);
      if (status != PONDER_OK) return status == PONDER_DONE;
      collect(event.raw(), slot.outcome);
    }
  }

  void finish(Slot& slot) {
    slot.generation = Generation();
    const Question& question = questions_[slot.question];
    const Outcome& outcome = slot.outcome;
    const bool closed = outcome.thought_end == PONDER_FINISH_STOP;
    const bool solved = puzzle_solved(outcome.answer, question.puzzle);
    ++tally_.done;
    tally_.solved += solved;
    tally_.closed += closed;
    tally_.thought_tokens += outcome.thought_tokens;
    tally_.tokens += outcome.tokens.size();
    if (log_.is_open()) {
      log_ << Json{{"question", question.prompt},
                   {"thought", outcome.thought},
                   {"answer", outcome.answer},
                   {"solved", solved},
                   {"thought_tokens", outcome.thought_tokens},
                   {"finish", finish_name(outcome.finish)}}
                  .dump(-1, ' ', false, Json::error_handler_t::replace)
           << '\n';
    }
    diagnostics().progress("countdown: " + std::to_string(tally_.done) + " of " +
                           std::to_string(questions_.size()) + ", " +
                           std::to_string(tally_.solved) + " solved");
  }

  const EvalArguments& args_;
  const Loaded& loaded_;
  News& news_;
  std::vector<Question> questions_;
  size_t next_ = 0;
  Tally tally_;
  std::ofstream log_;
};

void run(const EvalArguments& args) {
  News news;  // the engine's thread may still be waking us when the evaluation is over
  const Loaded loaded = args.sampling.load(args.model);
  const auto begin = std::chrono::steady_clock::now();
  const Tally tally = Evaluation(args, loaded, news).run();
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  diagnostics().clear_progress();

  const double n = tally.done;
  const double rate = tally.solved / n;
  const double standard_error = std::sqrt(rate * (1 - rate) / n);
  const double thought_mean = static_cast<double>(tally.thought_tokens) / n;
  const double closed = tally.closed / n;
  const double tokens_per_s = static_cast<double>(tally.tokens) / seconds;
  if (args.json) {
    output().json_line({{"solved", tally.solved},
                        {"n", tally.done},
                        {"rate", rate},
                        {"thought_tokens_mean", thought_mean},
                        {"standard_error", standard_error},
                        {"closed_rate", closed},
                        {"seed", args.seed},
                        {"model", loaded.path},
                        {"seconds", seconds},
                        {"tokens_per_s", tokens_per_s}});
    return;
  }
  output().write("solved " + std::to_string(tally.solved) + " of " + std::to_string(tally.done) +
                 ": " + human_number(rate) + " (standard error " + human_number(standard_error) +
                 ")\n" + "thought tokens " + human_number(thought_mean) +
                 " on average, thought closed in " + human_number(100 * closed) + "%\n" +
                 human_number(seconds) + " s, " + human_number(tokens_per_s) + " tokens/s over " +
                 std::to_string(args.sessions) + " sessions\n");
  output().flush();
}

}  // namespace

void add_eval(CLI::App& app) {
  CLI::App* command = app.add_subcommand("eval", "Measure how well a model reasons");
  command->require_subcommand(1);
  CLI::App* countdown = command->add_subcommand(
      "countdown", "Three numbers and a target; every answer is checked exactly");
  const auto args = std::make_shared<EvalArguments>();
  args->sampling.max_tokens = 512;
  args->model.add_positional(*countdown);
  countdown->add_option("-n,--count", args->count, "Puzzles")
      ->capture_default_str()
      ->check(CLI::Range(1, 1'000'000));
  countdown->add_option("--sessions", args->sessions, "Puzzles under way at the same time")
      ->capture_default_str()
      ->check(CLI::Range(1, 1024));
  countdown->add_option("--log", args->log_file, "Write a JSON object a puzzle")->type_name("FILE");
  countdown->add_flag("--json", args->json, "One JSON object");
  args->sampling.add_options(*countdown, /*with_seed=*/false);
  countdown->add_option("--seed", args->seed, "Of the puzzles and of the sampling")
      ->capture_default_str();
  args->model.add_options(*countdown);
  add_examples(
      *countdown,
      "  ponder eval countdown\n"
      "  ponder eval countdown -n 300 --seed 2024 --greedy\n"
      "      The puzzles that the shipped model's stated figures were measured on.\n"
      "  ponder eval countdown ~/models/R1-Distill-Qwen-1.5B -n 50 --max-tokens 4000 --json");
  countdown->callback([args] { run(*args); });
}

}  // namespace ponder::tool
