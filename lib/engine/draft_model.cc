#include "lib/engine/draft_model.h"

#include <algorithm>
#include <utility>

#include "lib/engine/engine.h"
#include "lib/engine/model.h"
#include "lib/engine/sequence.h"

namespace ponder::engine {
namespace {

// A text that has more than so many tokens that the draft model has not read goes on without drafts
// while they are read.
constexpr size_t kNear = 64;

size_t common_prefix(std::span<const int32_t> a, std::span<const int32_t> b) {
  return static_cast<size_t>(std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first -
                             a.begin());
}

}  // namespace

ModelDrafter::ModelDrafter(std::shared_ptr<Model> model)
    : model_(std::move(model)), timeline_(model_->engine().add_timeline()) {}

ModelDrafter::~ModelDrafter() {
  if (state_ != nullptr) state_->cancelled.store(true);
}

double ModelDrafter::seconds_each() const { return model_->engine().draft_seconds(); }

DraftRecord* ModelDrafter::record() { return model_->engine().draft_record(); }

bool ModelDrafter::can_read(std::span<const int32_t> text) {
  const auto known = static_cast<int32_t>(model_->info().vocabulary);
  while (checked_ < text.size() && text[checked_] < known) ++checked_;
  return checked_ == text.size() && text.size() < model_->info().context;
}

void ModelDrafter::settle_job() {
  if (job_ == nullptr || job_->state != DraftSink::State::kFailed) return;
  closed_ = true;
  job_.reset();
  timeline_.reset();  // its room is for others
}

bool ModelDrafter::ask(std::span<const int32_t> text, int32_t count) {
  settle_job();
  if (closed_) return false;
  if (job_ != nullptr && job_->state == DraftSink::State::kUnderWay) return true;
  job_.reset();
  if (!can_read(text)) {
    closed_ = true;
    timeline_.reset();
    return false;
  }
  const size_t read = std::min(common_prefix(text, timeline_->tokens),
                               static_cast<size_t>(timeline_->table.size()));
  auto job = std::make_shared<DraftSink>();
  if (text.size() - read <= kNear) {
    job->wanted = static_cast<int32_t>(
        std::min<size_t>(static_cast<size_t>(count), model_->info().context - text.size()));
    job->tokens.reserve(static_cast<size_t>(job->wanted));
  }
  auto sequence = std::make_unique<Sequence>();
  sequence->state = std::make_shared<GenerationState>();
  sequence->timeline = timeline_;
  sequence->drafts = job;
  sequence->prompt_tokens = static_cast<uint32_t>(text.size());
  state_ = sequence->state;
  model_->engine().submit(std::move(sequence), {text.begin(), text.end()});
  job_ = std::move(job);
  job_text_ = text.size();
  return true;
}

bool ModelDrafter::working() {
  settle_job();
  return job_ != nullptr && job_->state == DraftSink::State::kUnderWay && job_->wanted > 0;
}

int32_t ModelDrafter::propose(std::span<const int32_t> text, int32_t most,
                              std::vector<int32_t>* draft) {
  draft->clear();
  if (job_ == nullptr || job_->state != DraftSink::State::kDone || job_text_ != text.size()) {
    return 0;
  }
  const size_t n = std::min(job_->tokens.size(), static_cast<size_t>(std::max(most, 0)));
  draft->assign(job_->tokens.begin(), job_->tokens.begin() + static_cast<std::ptrdiff_t>(n));
  return 0;
}

Status check_draft_model(const Model& model, const Model& draft) {
  if (&model == &draft) {
    return invalid_argument_error(model.info().name,
                                  " cannot draft for itself; load a smaller model for that");
  }
  if (model.runtime() != draft.runtime()) {
    return invalid_argument_error("the draft model ", draft.info().name,
                                  " belongs to another runtime; load it into that of ",
                                  model.info().name);
  }
  const Tokenizer& ours = model.tokenizer();
  const Tokenizer& theirs = draft.tokenizer();
  const int32_t both = std::min(ours.vocabulary_size(), theirs.vocabulary_size());
  for (int32_t id = 0; id < both; ++id) {
    const absl::string_view a = ours.token_bytes(id), b = theirs.token_bytes(id);
    // A file may fill the ids that another leaves out.
    if (a == b || a.empty() || b.empty()) continue;
    return mismatch_error("token ", id, " is another to the draft model ", draft.info().name,
                          " than to ", model.info().name,
                          "; a draft model must have the same tokenizer");
  }
  return OkStatus();
}

}  // namespace ponder::engine
