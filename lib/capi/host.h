// The host's tables of callbacks, dressed as the interfaces that the rest of the library knows.
//
// Each adapter holds a copy of its table; the host keeps `user` alive. Nothing a host's callback
// does wrong may corrupt us: results are checked, and work that a thread pool leaves out is done.
#pragma once

#include <ponder/ponder.h>

#include <memory>

#include "lib/base/allocator.h"
#include "lib/base/status.h"
#include "lib/base/thread_pool.h"
#include "lib/format/file_source.h"

namespace ponder::capi {

// Checks the table first.
StatusOr<std::shared_ptr<Allocator>> host_allocator(const ponder_allocator& table);
StatusOr<std::shared_ptr<ThreadPool>> host_thread_pool(const ponder_thread_pool& table);

// The host's files, and what they reported. `close` is called exactly once, by the last owner of
// the source or, if there never is one, by this object.
class HostFiles {
 public:
  explicit HostFiles(const ponder_io& table);

  // The source, or why the table cannot be used.
  StatusOr<std::shared_ptr<const FileSource>> open();
  // `status`, with the code that a callback returned in place of the plain io_error made of it.
  Status restore(const Status& status) const;

 private:
  struct Table;
  std::shared_ptr<Table> table_;
};

}  // namespace ponder::capi
