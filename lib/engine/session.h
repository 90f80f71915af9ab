// One timeline of tokens and the KV pages that hold them, as its host sees it.
//
// Threads: one at a time per session; different sessions are independent. No device pointers here:
// the engine owns the pages.
#pragma once

#include <cstdint>
#include <memory>

#include "lib/base/status.h"
#include "lib/engine/generation.h"
#include "lib/engine/model.h"
#include "lib/engine/request.h"

namespace ponder::engine {

struct Timeline;  // lib/engine/sequence.h

class Session : public std::enable_shared_from_this<Session> {
 public:
  static StatusOr<std::shared_ptr<Session>> create(std::shared_ptr<Model> model);
  ~Session();

  // Shares the cache until the two differ. busy_error while a generation is under way, as truncate.
  StatusOr<std::shared_ptr<Session>> fork();
  uint32_t token_count() const;
  Status truncate(uint32_t token_count);  // invalid_argument_error beyond token_count()

  // Returns at once. The request states the whole prompt; what the session (or any other of the same
  // model) has already computed of it is reused. busy_error while another generation is under way.
  StatusOr<std::shared_ptr<Generation>> submit(const Request& request);

  // Ends what is under way, which still tells its FINISHED.
  void cancel();

  const std::shared_ptr<Model>& model() const { return model_; }

 private:
  Session(std::shared_ptr<Model> model, std::shared_ptr<Timeline> timeline);

  std::shared_ptr<Model> model_;
  std::shared_ptr<Timeline> timeline_;
  std::weak_ptr<GenerationState> current_;  // the last one submitted
};

}  // namespace ponder::engine
