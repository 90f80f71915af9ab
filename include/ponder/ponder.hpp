// ponder.hpp - ponder.h for C++11 and later: handles that clean up after themselves.
//
//   ponder::Runtime runtime;
//   ponder::Model model = ponder::Model::load(runtime, "models/countdown");
//   ponder::Session session(model);
//   ponder::Chat chat;
//   chat.add_user("Use 3, 5 and 7 to make 22.");
//   for (const ponder::Event& event : session.submit(ponder::Request().chat(chat)))
//     if (event.kind() == PONDER_EVENT_ANSWER) std::cout << event.text().str();
//
// Header only: nothing of it is in the library, so its own types may change between releases while
// the ABI below stays. Each class holds one handle, is moved and not copied, and gives the handle
// with get() wherever ponder.h is wanted; a moved-from object is empty and may only be destroyed or
// assigned to. Ownership, units, errors and thread classes are those of ponder.h.
//
// Failures. What can fail takes an `Error *error` last. With one, the failure goes there and an
// empty object or value comes back. Without one it is thrown as ponder::Error; where exceptions are
// switched off it is kept: setters remember the first failure and load, create or submit report it.
#ifndef PONDER_PONDER_HPP_
#define PONDER_PONDER_HPP_

#include <ponder/ponder.h>

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <iterator>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#if defined(__cplusplus) && __cplusplus >= 201703L
#include <string_view>
#define PONDER_HPP_STRING_VIEW 1
#endif
#if defined(__cpp_exceptions) || defined(__EXCEPTIONS) || defined(_CPPUNWIND)
#define PONDER_HPP_EXCEPTIONS 1
#endif

namespace ponder {

// Borrowed text: what functions here take and what events give.
class Text {
 public:
  Text() : data_(""), size_(0) {}
  Text(const char *text) : data_(text), size_(text != nullptr ? PONDER_STRLEN : 0) {}
  Text(const char *data, std::size_t size) : data_(data), size_(size) {}
  Text(const std::string &text) : data_(text.data()), size_(text.size()) {}
  Text(const ponder_str &text) : data_(text.data), size_(text.size) {}
#ifdef PONDER_HPP_STRING_VIEW
  Text(std::string_view text) : data_(text.data()), size_(text.size()) {}
  operator std::string_view() const { return std::string_view(data_, size()); }
#endif
  const char *data() const { return data_; }
  std::size_t size() const {
    return size_ == PONDER_STRLEN ? std::char_traits<char>::length(data_) : size_;
  }
  bool empty() const { return size() == 0; }
  std::string str() const { return data_ != nullptr ? std::string(data_, size()) : std::string(); }

 private:
  const char *data_;
  std::size_t size_;
};

// A failure. Default: none.
class Error : public std::exception {
 public:
  Error() : status_(PONDER_OK) {}
  Error(ponder_status status, std::string message)
      : status_(status), message_(std::move(message)) {}
  // The words of `error`, which is given back; the status's name where there are none.
  static Error take(ponder_status status, ponder_error *error) {
    ponder_str words = {nullptr, 0};
    ponder_error_get(error, nullptr, &words);
    Error taken(status, words.size != 0 ? Text(words).str() : ponder_status_name(status));
    ponder_error_destroy(error);
    return taken;
  }
  ponder_status status() const { return status_; }
  const std::string &message() const { return message_; }
  const char *what() const noexcept override { return message_.c_str(); }
  explicit operator bool() const { return status_ < 0; }

 private:
  ponder_status status_;
  std::string message_;
};

namespace detail {

// Passes a failure on as the header comment says. True: there was none. `words` by reference: it is
// often written by the call whose status is the argument beside it, in whichever order they are
// evaluated.
inline bool check(ponder_status status, ponder_error *const &words, Error *error) {
  if (status >= 0) {
    if (error != nullptr) *error = Error();
    return true;
  }
  Error failure = Error::take(status, words);
  if (error != nullptr) {
    *error = std::move(failure);
    return false;
  }
#ifdef PONDER_HPP_EXCEPTIONS
  throw failure;
#else
  return false;
#endif
}

template <typename T, void (*destroy)(T *)>
struct Deleter {
  void operator()(T *handle) const { destroy(handle); }
};
template <typename T, void (*destroy)(T *)>
using Handle = std::unique_ptr<T, Deleter<T, destroy>>;

// For setters, whose failures have no words: thrown, or kept until something asks.
class Setters {
 public:
  ponder_status failure() const { return failure_; }

 protected:
  void set(ponder_status status) {
    if (status < 0 && failure_ >= 0) failure_ = status;
    check(status, nullptr, nullptr);
  }
  ponder_status failure_ = PONDER_OK;
};

// Reads a text through an in/out buffer: once for the size, once for the bytes.
template <typename Read>
std::string read_text(Read read, Error *error) {
  std::string text;
  for (;;) {
    std::size_t size = text.size();
    ponder_error *words = nullptr;
    const ponder_status status = read(text.empty() ? nullptr : &text[0], &size, &words);
    if (status == PONDER_ERR_BUFFER_TOO_SMALL) {
      ponder_error_destroy(words);
      text.resize(size);
      continue;
    }
    text.resize(check(status, words, error) ? size : 0);
    return text;
  }
}

}  // namespace detail

// ---- runtime ------------------------------------------------------------------------------------

class RuntimeOptions : public detail::Setters {
 public:
  RuntimeOptions() {
    ponder_runtime_options *handle = nullptr;
    set(ponder_runtime_options_create(&handle));
    handle_.reset(handle);
  }
  RuntimeOptions &log(ponder_log_fn fn, void *user, int32_t min_level = PONDER_LOG_INFO) {
    return set_(ponder_runtime_options_set_log(get(), fn, user, min_level));
  }
  RuntimeOptions &allocator(const ponder_allocator &table) {
    return set_(ponder_runtime_options_set_allocator(get(), &table, sizeof table));
  }
  RuntimeOptions &thread_pool(const ponder_thread_pool &table) {
    return set_(ponder_runtime_options_set_thread_pool(get(), &table, sizeof table));
  }
  RuntimeOptions &threads(uint32_t n) { return set_(ponder_runtime_options_set_threads(get(), n)); }
  RuntimeOptions &drive(int32_t drive) {
    return set_(ponder_runtime_options_set_drive(get(), drive));
  }
  ponder_runtime_options *get() const { return handle_.get(); }

 private:
  RuntimeOptions &set_(ponder_status status) { return set(status), *this; }
  detail::Handle<ponder_runtime_options, ponder_runtime_options_destroy> handle_;
};

class Generation;

class Runtime {
 public:
  explicit Runtime(Error *error = nullptr) { create(nullptr, error); }
  explicit Runtime(const RuntimeOptions &options, Error *error = nullptr) {
    if (detail::check(options.failure(), nullptr, error)) create(options.get(), error);
  }
  // Takes over one reference.
  explicit Runtime(ponder_runtime *handle) : handle_(handle) {}
  // A second reference to the same runtime.
  Runtime retain() const { return Runtime(ponder_runtime_retain(get())); }

  uint32_t device_count() const { return ponder_runtime_device_count(get()); }
  ponder_device_info device(uint32_t i, Error *error = nullptr) const {
    ponder_device_info info = ponder_device_info();
    detail::check(ponder_runtime_get_device(get(), i, &info, sizeof info), nullptr, error);
    return info;
  }
  // True: there is more to do.
  bool poll(uint64_t budget_us, Error *error = nullptr) {
    const ponder_status status = ponder_runtime_poll(get(), budget_us);
    return detail::check(status, nullptr, error) && status == PONDER_PENDING;
  }
  // nullptr: none has news.
  ponder_generation *next_ready(Error *error = nullptr) {
    ponder_generation *ready = nullptr;
    detail::check(ponder_runtime_next_ready(get(), &ready), nullptr, error);
    return ready;
  }
  void set_waker(ponder_wake_fn fn, void *user) { ponder_runtime_set_waker(get(), fn, user); }
  ponder_runtime *get() const { return handle_.get(); }
  explicit operator bool() const { return handle_ != nullptr; }

 private:
  void create(const ponder_runtime_options *options, Error *error) {
    ponder_runtime *handle = nullptr;
    ponder_error *words = nullptr;
    detail::check(ponder_runtime_create(options, &handle, &words), words, error);
    handle_.reset(handle);
  }
  detail::Handle<ponder_runtime, ponder_runtime_release> handle_;
};

// ---- models -------------------------------------------------------------------------------------

class ModelOptions : public detail::Setters {
 public:
  ModelOptions() {
    ponder_model_options *handle = nullptr;
    set(ponder_model_options_create(&handle));
    handle_.reset(handle);
  }
  ModelOptions &device(uint32_t i) { return set_(ponder_model_options_set_device(get(), i)); }
  ModelOptions &context(uint32_t n) { return set_(ponder_model_options_set_context(get(), n)); }
  ModelOptions &kv_bytes(uint64_t n) { return set_(ponder_model_options_set_kv_bytes(get(), n)); }
  ModelOptions &vram_bytes(uint64_t n) {
    return set_(ponder_model_options_set_vram_bytes(get(), n));
  }
  ModelOptions &expert_bytes(uint64_t n) {
    return set_(ponder_model_options_set_expert_bytes(get(), n));
  }
  ModelOptions &draft_layer(bool on = true) {
    return set_(ponder_model_options_set_draft_layer(get(), on ? 1 : 0));
  }
  ModelOptions &kv_type(int32_t t) { return set_(ponder_model_options_set_kv_type(get(), t)); }
  ModelOptions &precision(int32_t p) { return set_(ponder_model_options_set_precision(get(), p)); }
  ModelOptions &hint(const char *name, const char *value) {
    return set_(ponder_model_options_set_hint(get(), name, value));
  }
  // True goes on, false stops the load. Kept by the options, which must outlive the load; what it
  // throws stops the load, too.
  ModelOptions &progress(std::function<bool(uint64_t done, uint64_t total)> fn) {
    progress_.reset(new std::function<bool(uint64_t, uint64_t)>(std::move(fn)));
    return set_(ponder_model_options_set_progress(get(), &ModelOptions::report, progress_.get()));
  }
  ponder_model_options *get() const { return handle_.get(); }

 private:
  ModelOptions &set_(ponder_status status) { return set(status), *this; }
  static int32_t report(void *user, uint64_t done, uint64_t total) {
    const auto &fn = *static_cast<std::function<bool(uint64_t, uint64_t)> *>(user);
#ifdef PONDER_HPP_EXCEPTIONS
    try {
      return fn(done, total) ? 0 : 1;
    } catch (...) {
      return 1;
    }
#else
    return fn(done, total) ? 0 : 1;
#endif
  }
  std::unique_ptr<std::function<bool(uint64_t, uint64_t)>> progress_;
  detail::Handle<ponder_model_options, ponder_model_options_destroy> handle_;
};

// `importance` may be empty. True: the file `to` is there.
inline bool quantize(const std::string &from, const std::string &to, const std::string &type,
                     const std::string &importance = std::string(), std::uint32_t threads = 0,
                     ponder_progress_fn fn = nullptr, void *user = nullptr,
                     Error *error = nullptr) {
  ponder_error *words = nullptr;
  return detail::check(
      ponder_quantize(from.c_str(), to.c_str(), type.c_str(),
                      importance.empty() ? nullptr : importance.c_str(), threads, fn, user, &words),
      words, error);
}

struct Scores {
  std::vector<float> logprobs;           // [count - 1]
  std::vector<ponder_token> top_tokens;  // [count * top_n]
  std::vector<float> top_logprobs;
};

class Model {
 public:
  static Model load(const Runtime &runtime, const std::string &path, Error *error = nullptr) {
    return load(runtime, path.c_str(), nullptr, error);
  }
  static Model load(const Runtime &runtime, const std::string &path, const ModelOptions &options,
                    Error *error = nullptr) {
    if (!detail::check(options.failure(), nullptr, error)) return Model(nullptr);
    return load(runtime, path.c_str(), options.get(), error);
  }
  static Model load_io(const Runtime &runtime, const ponder_io &io, const ModelOptions &options,
                       Error *error = nullptr) {
    ponder_model *handle = nullptr;
    ponder_error *words = nullptr;
    detail::check(
        ponder_model_load_io(runtime.get(), &io, sizeof io, options.get(), &handle, &words), words,
        error);
    return Model(handle);
  }
  // What loading it would take, without loading it.
  static ponder_model_needs examine(const Runtime &runtime, const std::string &path,
                                    const ModelOptions &options, Error *error = nullptr) {
    ponder_model_needs needs = ponder_model_needs();
    ponder_error *words = nullptr;
    detail::check(ponder_model_examine(runtime.get(), path.c_str(), options.get(), &needs,
                                       sizeof needs, &words),
                  words, error);
    return needs;
  }
  // Writes what ponder_calibrate says to the file `to`.
  static bool calibrate(const Runtime &runtime, const std::string &path,
                        const ModelOptions &options, Text text, const std::string &to,
                        ponder_progress_fn fn = nullptr, void *user = nullptr,
                        Error *error = nullptr) {
    ponder_error *words = nullptr;
    return detail::check(ponder_calibrate(runtime.get(), path.c_str(), options.get(), text.data(),
                                          text.size(), to.c_str(), fn, user, &words),
                         words, error);
  }
  // Takes over one reference.
  explicit Model(ponder_model *handle) : handle_(handle) {}
  // A second reference to the same model.
  Model retain() const { return Model(ponder_model_retain(get())); }

  ponder_model_info info(Error *error = nullptr) const {
    ponder_model_info info = ponder_model_info();
    detail::check(ponder_model_get_info(get(), &info, sizeof info), nullptr, error);
    return info;
  }
  ponder_stats stats(Error *error = nullptr) const {
    ponder_stats stats = ponder_stats();
    detail::check(ponder_model_get_stats(get(), &stats, sizeof stats), nullptr, error);
    return stats;
  }
  // Empty: the model has none.
  Text chat_template() const {
    ponder_str source = {nullptr, 0};
    return ponder_model_get_template(get(), &source) == PONDER_OK ? Text(source) : Text();
  }
  std::vector<ponder_token> tokenize(Text text, int32_t flags = PONDER_TOKENIZE_PLAIN,
                                     Error *error = nullptr) const {
    std::vector<ponder_token> tokens;
    for (;;) {
      std::size_t count = tokens.size();
      const ponder_status status =
          ponder_model_tokenize(get(), text.data(), text.size(), flags, tokens.data(), &count);
      if (status != PONDER_ERR_BUFFER_TOO_SMALL) {
        tokens.resize(detail::check(status, nullptr, error) ? count : 0);
        return tokens;
      }
      tokens.resize(count);
    }
  }
  std::string detokenize(const std::vector<ponder_token> &tokens, Error *error = nullptr) const {
    return detail::read_text(
        [&](char *text, std::size_t *size, ponder_error **) {
          return ponder_model_detokenize(get(), tokens.data(), tokens.size(), text, size);
        },
        error);
  }
  std::string token_text(ponder_token token, Error *error = nullptr) const {
    return detail::read_text(
        [&](char *text, std::size_t *size, ponder_error **) {
          return ponder_model_get_token_text(get(), token, text, size);
        },
        error);
  }
  Scores score(const std::vector<ponder_token> &tokens, uint32_t top_n = 0,
               Error *error = nullptr) {
    Scores scores;
    scores.logprobs.resize(tokens.empty() ? 0 : tokens.size() - 1);
    scores.top_tokens.resize(tokens.size() * top_n);
    scores.top_logprobs.resize(tokens.size() * top_n);
    ponder_error *words = nullptr;
    const ponder_status status =
        ponder_model_score(get(), tokens.data(), tokens.size(), top_n, scores.logprobs.data(),
                           top_n != 0 ? scores.top_tokens.data() : nullptr,
                           top_n != 0 ? scores.top_logprobs.data() : nullptr, &words);
    if (!detail::check(status, words, error)) scores = Scores();
    return scores;
  }
  ponder_model *get() const { return handle_.get(); }
  explicit operator bool() const { return handle_ != nullptr; }

 private:
  static Model load(const Runtime &runtime, const char *path, const ponder_model_options *options,
                    Error *error) {
    ponder_model *handle = nullptr;
    ponder_error *words = nullptr;
    detail::check(ponder_model_load(runtime.get(), path, options, &handle, &words), words, error);
    return Model(handle);
  }
  detail::Handle<ponder_model, ponder_model_release> handle_;
};

// ---- chats and requests -------------------------------------------------------------------------

class Chat : public detail::Setters {
 public:
  Chat() {
    ponder_chat *handle = nullptr;
    set(ponder_chat_create(&handle));
    handle_.reset(handle);
  }
  Chat &add(int32_t role, Text text) {
    return set_(ponder_chat_add(get(), role, text.data(), text.size()));
  }
  Chat &add_system(Text text) { return add(PONDER_ROLE_SYSTEM, text); }
  Chat &add_user(Text text) { return add(PONDER_ROLE_USER, text); }
  Chat &add_assistant(Text thought, Text answer, Text tool_calls = Text(), Error *error = nullptr) {
    ponder_error *words = nullptr;
    return pass(ponder_chat_add_assistant(
                    get(), thought.data(), thought.size(), answer.data(), answer.size(),
                    tool_calls.empty() ? nullptr : tool_calls.data(), tool_calls.size(), &words),
                words, error);
  }
  Chat &add_tool_result(const char *call_id, Text text) {
    return set_(ponder_chat_add_tool_result(get(), call_id, text.data(), text.size()));
  }
  Chat &add_json(Text json, Error *error = nullptr) {
    ponder_error *words = nullptr;
    return pass(ponder_chat_add_json(get(), json.data(), json.size(), &words), words, error);
  }
  Chat &set_tools(Text json, Error *error = nullptr) {
    ponder_error *words = nullptr;
    return pass(ponder_chat_set_tools(get(), json.data(), json.size(), &words), words, error);
  }
  Chat &set_variable(const char *name, Text json, Error *error = nullptr) {
    ponder_error *words = nullptr;
    return pass(ponder_chat_set_variable(get(), name, json.data(), json.size(), &words), words,
                error);
  }
  Chat &set_generation_prompt(bool on) {
    return set_(ponder_chat_set_generation_prompt(get(), on ? 1 : 0));
  }
  Chat &truncate(uint32_t count) { return set_(ponder_chat_truncate(get(), count)); }
  uint32_t message_count() const { return ponder_chat_message_count(get()); }
  std::string json(Error *error = nullptr) const {
    return detail::read_text(
        [&](char *text, std::size_t *size, ponder_error **) {
          return ponder_chat_get_json(get(), text, size);
        },
        error);
  }
  std::string render(const Model &model, Error *error = nullptr) const {
    return detail::read_text(
        [&](char *text, std::size_t *size, ponder_error **words) {
          return ponder_chat_render(get(), model.get(), text, size, words);
        },
        error);
  }
  ponder_chat *get() const { return handle_.get(); }

 private:
  Chat &set_(ponder_status status) { return set(status), *this; }
  Chat &pass(ponder_status status, ponder_error *const &words, Error *error) {
    if (!detail::check(status, words, error) && error == nullptr && failure_ >= 0) {
      failure_ = status;
    }
    return *this;
  }
  detail::Handle<ponder_chat, ponder_chat_destroy> handle_;
};

class Request : public detail::Setters {
 public:
  Request() {
    ponder_request *handle = nullptr;
    set(ponder_request_create(&handle));
    handle_.reset(handle);
  }
  Request &chat(const Chat &chat) {
    set(chat.failure());
    return set_(ponder_request_set_chat(get(), chat.get()));
  }
  Request &text(Text text, int32_t flags = PONDER_TOKENIZE_PLAIN) {
    return set_(ponder_request_set_text(get(), text.data(), text.size(), flags));
  }
  Request &tokens(const std::vector<ponder_token> &tokens) {
    return set_(ponder_request_set_tokens(get(), tokens.data(), tokens.size()));
  }
  Request &max_tokens(uint32_t n) { return set_(ponder_request_set_max_tokens(get(), n)); }
  Request &seed(uint64_t seed) { return set_(ponder_request_set_seed(get(), seed)); }
  Request &temperature(float t) { return set_(ponder_request_set_temperature(get(), t)); }
  Request &top_p(float p) { return set_(ponder_request_set_top_p(get(), p)); }
  Request &top_k(uint32_t k) { return set_(ponder_request_set_top_k(get(), k)); }
  Request &min_p(float p) { return set_(ponder_request_set_min_p(get(), p)); }
  Request &penalties(float repeat, float presence, float frequency) {
    return set_(ponder_request_set_penalties(get(), repeat, presence, frequency));
  }
  Request &logit_bias(const std::vector<std::pair<ponder_token, float>> &bias) {
    std::vector<ponder_token> tokens;
    std::vector<float> values;
    for (const auto &entry : bias) {
      tokens.push_back(entry.first);
      values.push_back(entry.second);
    }
    return set_(ponder_request_set_logit_bias(get(), tokens.data(), values.data(), tokens.size()));
  }
  Request &stop(Text text) {
    return set_(ponder_request_add_stop(get(), text.data(), text.size()));
  }
  Request &logprobs(int32_t top_n) { return set_(ponder_request_set_logprobs(get(), top_n)); }
  Request &ignore_eos(bool on = true) {
    return set_(ponder_request_set_ignore_eos(get(), on ? 1 : 0));
  }
  Request &speculation(int32_t method, uint32_t max_draft = 0) {
    return set_(ponder_request_set_speculation(get(), method, max_draft));
  }
  Request &draft_model(const Model &model) {
    return set_(ponder_request_set_draft_model(get(), model.get()));
  }
  Request &reasoning(int32_t mode) { return set_(ponder_request_set_reasoning(get(), mode)); }
  Request &thought_budget(uint32_t soft, uint32_t hard) {
    return set_(ponder_request_set_thought_budget(get(), soft, hard));
  }
  Request &thought_closing(Text text) {
    return set_(ponder_request_set_thought_closing(get(), text.data(), text.size()));
  }
  Request &thought_hidden(bool hidden = true) {
    return set_(ponder_request_set_thought_hidden(get(), hidden ? 1 : 0));
  }
  ponder_request *get() const { return handle_.get(); }

 private:
  Request &set_(ponder_status status) { return set(status), *this; }
  detail::Handle<ponder_request, ponder_request_destroy> handle_;
};

// ---- generations and sessions -------------------------------------------------------------------

// One event; what it points to lives until the generation is asked again.
class Event {
 public:
  Event() : event_() {}
  int32_t kind() const { return event_.kind; }
  int32_t finish() const { return event_.finish; }
  Text text() const { return Text(event_.text); }
  std::vector<ponder_token> tokens() const {
    return std::vector<ponder_token>(event_.tokens, event_.tokens + event_.token_count);
  }
  const ponder_event &raw() const { return event_; }

 private:
  friend class Generation;
  ponder_event event_;
};

struct Reply {
  std::string thought, answer;
  int32_t finish = 0;
};

class Generation {
 public:
  explicit Generation(ponder_generation *handle = nullptr) : handle_(handle) {}

  // OK, PENDING or DONE, or the failure.
  ponder_status next(Event &event, Error *error = nullptr) {
    ponder_error *words = nullptr;
    const ponder_status status =
        ponder_generation_next(get(), &event.event_, sizeof event.event_, &words);
    detail::check(status, words, error);
    return status;
  }
  // False: the time ran out.
  bool wait(uint64_t timeout_us = PONDER_FOREVER, Error *error = nullptr) {
    const ponder_status status = ponder_generation_wait(get(), timeout_us);
    return detail::check(status, nullptr, error) && status != PONDER_PENDING;
  }
  void cancel() { ponder_generation_cancel(get()); }
  void close_thought() { ponder_generation_close_thought(get()); }
  void set_waker(ponder_wake_fn fn, void *user) { ponder_generation_set_waker(get(), fn, user); }
  ponder_stats stats(Error *error = nullptr) const {
    ponder_stats stats = ponder_stats();
    detail::check(ponder_generation_get_stats(get(), &stats, sizeof stats), nullptr, error);
    return stats;
  }

  // The next event, waiting for it. False: there are no more, or it failed.
  bool next_blocking(Event &event, Error *error = nullptr) {
    for (;;) {
      const ponder_status status = next(event, error);
      if (status == PONDER_OK) return true;
      if (status != PONDER_PENDING || !wait(PONDER_FOREVER, error)) return false;
    }
  }
  // All that is still to come, as text.
  Reply collect(Error *error = nullptr) {
    Reply reply;
    Event event;
    while (next_blocking(event, error)) {
      if (event.kind() == PONDER_EVENT_THOUGHT) reply.thought += event.text().str();
      if (event.kind() == PONDER_EVENT_ANSWER) reply.answer += event.text().str();
      if (event.kind() == PONDER_EVENT_FINISHED) reply.finish = event.finish();
    }
    return reply;
  }

  // Events as a range, waiting for each: one pass.
  class iterator {
   public:
    using iterator_category = std::input_iterator_tag;
    using value_type = Event;
    using difference_type = std::ptrdiff_t;
    using pointer = const Event *;
    using reference = const Event &;
    explicit iterator(Generation *generation = nullptr) : generation_(generation) { advance(); }
    reference operator*() const { return event_; }
    pointer operator->() const { return &event_; }
    iterator &operator++() { return advance(), *this; }
    void operator++(int) { advance(); }
    friend bool operator==(const iterator &a, const iterator &b) {
      return a.generation_ == b.generation_;
    }
    friend bool operator!=(const iterator &a, const iterator &b) { return !(a == b); }

   private:
    void advance() {
      if (generation_ != nullptr && !generation_->next_blocking(event_)) generation_ = nullptr;
    }
    Generation *generation_;
    Event event_;
  };
  iterator begin() { return iterator(this); }
  iterator end() { return iterator(); }

  ponder_generation *get() const { return handle_.get(); }
  explicit operator bool() const { return handle_ != nullptr; }

 private:
  detail::Handle<ponder_generation, ponder_generation_destroy> handle_;
};

class Session {
 public:
  explicit Session(const Model &model, Error *error = nullptr) {
    ponder_session *handle = nullptr;
    ponder_error *words = nullptr;
    detail::check(ponder_session_create(model.get(), &handle, &words), words, error);
    handle_.reset(handle);
  }
  explicit Session(ponder_session *handle) : handle_(handle) {}

  Session fork(Error *error = nullptr) {
    ponder_session *handle = nullptr;
    detail::check(ponder_session_fork(get(), &handle), nullptr, error);
    return Session(handle);
  }
  uint32_t token_count() const { return ponder_session_token_count(get()); }
  bool truncate(uint32_t token_count, Error *error = nullptr) {
    return detail::check(ponder_session_truncate(get(), token_count), nullptr, error);
  }
  Generation submit(const Request &request, Error *error = nullptr) {
    if (!detail::check(request.failure(), nullptr, error)) return Generation();
    ponder_generation *handle = nullptr;
    ponder_error *words = nullptr;
    detail::check(ponder_session_submit(get(), request.get(), &handle, &words), words, error);
    return Generation(handle);
  }
  ponder_session *get() const { return handle_.get(); }
  explicit operator bool() const { return handle_ != nullptr; }

 private:
  detail::Handle<ponder_session, ponder_session_destroy> handle_;
};

}  // namespace ponder

#undef PONDER_HPP_STRING_VIEW
#undef PONDER_HPP_EXCEPTIONS
#endif  // PONDER_PONDER_HPP_
