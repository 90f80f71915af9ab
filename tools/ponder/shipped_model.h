#pragma once

#include <string>

namespace ponder::tool {

// The folder of the model that is used when none is named: beside the installed command
// (../share/ponder/models/countdown) or in the source tree the command was built from. Throws a
// Failure if it is in neither place.
std::string shipped_model();

}  // namespace ponder::tool
