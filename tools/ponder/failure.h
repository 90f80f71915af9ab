// How the command gives up: one line for stderr and an exit status.
#pragma once

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

}  // namespace ponder::tool
