// `ponder perplexity`: how well a model predicts a text, and how far it is from another model. What
// users judge a quantisation by; windows and their scored halves are those of llama-perplexity.

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "commands.h"
#include "options.h"

namespace ponder::tool {
namespace {

struct PerplexityArguments {
  ModelArguments model;
  std::string text, against;
  uint32_t window = 512;
  bool json = false;
};

struct Mean {
  double sum = 0, squares = 0;
  uint64_t count = 0;

  void add(double v) {
    sum += v;
    squares += v * v;
    ++count;
  }
  double mean() const { return sum / static_cast<double>(count); }
  // The standard error of the mean.
  double error() const {
    if (count < 2) return 0;
    const double n = static_cast<double>(count);
    return std::sqrt(std::max(0.0, (squares / n - mean() * mean()) / (n - 1)));
  }
};

struct Window {
  std::vector<ponder_token> tokens;  // as the model reads them
  std::vector<ponder_token> next;    // [i] is what follows tokens[i]
};

std::vector<Window> windows_of(const Model& model, const std::string& text, uint32_t size) {
  const std::vector<ponder_token> tokens = model.tokenize(text, PONDER_TOKENIZE_ADD_SPECIAL);
  // With a token at the start of every text each window starts with it, in place of its own first.
  const std::vector<ponder_token> nothing = model.tokenize("", PONDER_TOKENIZE_ADD_SPECIAL);
  std::vector<Window> windows;
  for (size_t first = 0; first + size <= tokens.size(); first += size) {
    Window window;
    const auto begin = tokens.begin() + static_cast<std::ptrdiff_t>(first);
    window.tokens.assign(begin, begin + size);
    window.next.assign(begin + 1, begin + size);
    if (!nothing.empty()) window.tokens[0] = nothing[0];
    windows.push_back(std::move(window));
  }
  if (windows.empty()) {
    throw Failure("the text has " + std::to_string(tokens.size()) + " tokens, a window " +
                  std::to_string(size) + "; choose a smaller --window or a longer text");
  }
  return windows;
}

// Logarithms of all tokens' probabilities after the scored places of a window: [rows][vocabulary].
std::vector<float> distributions(Model& model, const Window& window, size_t first, size_t rows,
                                 uint32_t vocabulary) {
  Error error;
  const Scores scores = model.score(window.tokens, vocabulary, &error);
  if (error) throw error;
  std::vector<float> dense(rows * vocabulary);
  for (size_t r = 0; r < rows; ++r) {
    for (size_t k = 0; k < vocabulary; ++k) {
      const size_t at = (first + r) * vocabulary + k;
      dense[r * vocabulary + static_cast<size_t>(scores.top_tokens[at])] = scores.top_logprobs[at];
    }
  }
  return dense;
}

double quantile(std::vector<double>& values, double q) {
  const auto at = static_cast<size_t>(q * static_cast<double>(values.size() - 1));
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(at), values.end());
  return values[at];
}

void run(const PerplexityArguments& args) {
  if (args.window < 4) throw UsageError("--window must be 4 or more");
  const std::string text = read_input(args.text);
  Loaded loaded = args.model.load();
  std::optional<Loaded> base;
  if (!args.against.empty()) {
    ModelArguments other = args.model;
    other.model = args.against;
    base.emplace(other.load());
    if (base->model.info().vocabulary != loaded.model.info().vocabulary) {
      throw Failure("the models have vocabularies of " +
                    std::to_string(loaded.model.info().vocabulary) + " and " +
                    std::to_string(base->model.info().vocabulary) + " tokens: not comparable");
    }
  }
  const uint32_t vocabulary = loaded.model.info().vocabulary;
  const std::vector<Window> windows = windows_of(loaded.model, text, args.window);
  const size_t first = args.window / 2, rows = args.window - 1 - first;
  Mean loss, base_loss, divergence;
  std::vector<double> divergences;
  uint64_t same_top = 0;
  for (size_t w = 0; w < windows.size(); ++w) {
    diagnostics().progress("perplexity: " + std::to_string(w) + " of " +
                           std::to_string(windows.size()) + " windows");
    const Window& window = windows[w];
    if (!base) {
      Error error;
      // The first token may stand in for another, which changes nothing of what is scored.
      const Scores scores = loaded.model.score(window.tokens, 0, &error);
      if (error) throw error;
      for (size_t i = first; i < first + rows; ++i) loss.add(-double{scores.logprobs[i]});
      continue;
    }
    const std::vector<float> wanted = distributions(base->model, window, first, rows, vocabulary);
    const std::vector<float> got = distributions(loaded.model, window, first, rows, vocabulary);
    for (size_t r = 0; r < rows; ++r) {
      const float* p = wanted.data() + r * vocabulary;
      const float* q = got.data() + r * vocabulary;
      const auto next = static_cast<size_t>(window.next[first + r]);
      loss.add(-double{q[next]});
      base_loss.add(-double{p[next]});
      double kl = 0;
      for (uint32_t k = 0; k < vocabulary; ++k) {
        if (p[k] > -80) kl += std::exp(double{p[k]}) * (double{p[k]} - double{q[k]});
      }
      divergence.add(kl);
      divergences.push_back(kl);
      if (std::max_element(p, p + vocabulary) - p == std::max_element(q, q + vocabulary) - q) {
        ++same_top;
      }
    }
  }
  diagnostics().clear_progress();

  const double perplexity = std::exp(loss.mean());
  const double error = perplexity * loss.error();
  Json json = {{"model", loaded.path}, {"window", args.window},    {"windows", windows.size()},
               {"scored", loss.count}, {"perplexity", perplexity}, {"error", error}};
  std::string lines = "perplexity  " + human_number(perplexity) + " +- " + human_number(error) +
                      "  (" + std::to_string(loss.count) + " tokens in " +
                      std::to_string(windows.size()) + " windows of " +
                      std::to_string(args.window) + ")\n";
  if (base) {
    const double agreement = static_cast<double>(same_top) / static_cast<double>(divergence.count);
    json["against"] = {{"model", base->path},
                       {"perplexity", std::exp(base_loss.mean())},
                       {"kl_divergence", divergence.mean()},
                       {"kl_error", divergence.error()},
                       {"kl_median", quantile(divergences, 0.5)},
                       {"kl_99", quantile(divergences, 0.99)},
                       {"same_top", agreement}};
    lines += "against     " + human_number(std::exp(base_loss.mean())) + " of " + base->path +
             "\nKL          " + human_number(divergence.mean()) + " +- " +
             human_number(divergence.error()) + ", median " +
             human_number(quantile(divergences, 0.5)) + ", 99% below " +
             human_number(quantile(divergences, 0.99)) + "\nsame top    " +
             human_number(100 * agreement) + " %\n";
  }
  if (args.json) {
    output().json_line(json);
  } else {
    output().write(lines);
    output().flush();
  }
}

}  // namespace

void add_perplexity(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "perplexity", "How well a model predicts a text, and how far it is from another model");
  const auto args = std::make_shared<PerplexityArguments>();
  command->add_option("MODEL", args->model.model, "A model folder or a GGUF file")->required();
  command->add_option("TEXT", args->text, "A text file; '-': standard input")->required();
  command
      ->add_option("--window", args->window,
                   "Tokens that are read together; the later half is scored")
      ->type_name("N")
      ->capture_default_str();
  command
      ->add_option(
          "--against", args->against,
          "Also the Kullback-Leibler divergence from this model, and how often both find the "
          "same token likeliest; takes 20 bytes x window x vocabulary of memory")
      ->type_name("MODEL");
  command->add_flag("--json", args->json, "One JSON object");
  args->model.add_options(*command);
  add_examples(*command,
               "  ponder perplexity r1-q4_k_m.gguf wiki.txt\n"
               "  ponder perplexity r1-q4_k_m.gguf wiki.txt --against r1-bf16.gguf --json");
  command->callback([args] { run(*args); });
}

}  // namespace ponder::tool
