// How the command gives up: one line for stderr and an exit status. Failures of the library that
// bring words are ponder::Error and end as Failure does.
#pragma once

#include <ponder/ponder.hpp>

#include <stdexcept>
#include <string>

namespace ponder::tool {

inline constexpr int kExitDone = 0;
inline constexpr int kExitFailed = 1;
inline constexpr int kExitUsage = 2;
inline constexpr int kExitInterrupted = 130;  // as shells report SIGINT
inline constexpr int kExitPipeClosed = 141;   // as shells report SIGPIPE

// The request cannot be done; what() is one line with the thing and the remedy.
struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The command line asks for something that makes no sense.
struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Whoever read our output has gone: nothing to say, and nobody to say it to.
struct PipeClosed : std::exception {};

// Throws Failure when `status` is one. For calls that bring no words of their own; `what` names the
// option or the input, and what it must be.
inline void check(ponder_status status, const std::string& what) {
  if (status == PONDER_ERR_INVALID_ARGUMENT) throw Failure(what + " is malformed or out of range");
  if (status < 0) throw Failure(what + ": " + ponder_status_name(status));
}
inline void check(const Error& error, const std::string& what) { check(error.status(), what); }

}  // namespace ponder::tool
