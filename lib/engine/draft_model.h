// ModelDrafter: a second model as drafter. To that model's engine each draft is a small request of
// its own on a timeline that follows the text: it reads what is new, in steps shared with all that
// it drafts for, and goes on with its likeliest tokens. What was wrong is forgotten as the next
// text differs, like any text's past.
//
// A draft is a guest there: it takes room that is free, from nobody, and where there is none, or
// the text has outgrown the draft model, this text is not drafted for any more.
//
// Both engines have the same driver, which alone uses this. Keeps the model alive.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "lib/base/status.h"
#include "lib/engine/drafter.h"

namespace ponder::engine {

class GenerationState;
class Model;
struct DraftSink;
struct Timeline;

class ModelDrafter final : public Drafter {
 public:
  explicit ModelDrafter(std::shared_ptr<Model> model);
  ~ModelDrafter() override;

  Moment moment() const override { return Moment::kBetween; }
  bool ask(std::span<const int32_t> text, int32_t count) override;
  bool working() override;
  double seconds_each() const override;
  DraftRecord* record() override;
  int32_t propose(std::span<const int32_t> text, int32_t most,
                  std::vector<int32_t>* draft) override;

 private:
  bool can_read(std::span<const int32_t> text);
  void settle_job();  // looks whether it has ended

  std::shared_ptr<Model> model_;
  std::shared_ptr<Timeline> timeline_;  // of model_'s engine
  std::shared_ptr<GenerationState> state_;
  std::shared_ptr<DraftSink> job_;  // the last one, until it failed
  size_t job_text_ = 0;             // the size of its text
  size_t checked_ = 0;              // so many tokens of the text are in the model's vocabulary
  bool closed_ = false;
};

// Why `draft` cannot draft for `model`, or OK: another runtime, the model itself, other tokens.
// Any thread.
Status check_draft_model(const Model& model, const Model& draft);

}  // namespace ponder::engine
