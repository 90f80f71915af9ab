#include "shipped_model.h"

#include <filesystem>

#include "failure.h"

namespace ponder::tool {

namespace fs = std::filesystem;

std::string shipped_model() {
  std::error_code failed;
  const fs::path self = fs::read_symlink("/proc/self/exe", failed);
  if (!failed) {
    const fs::path installed =
        self.parent_path().parent_path() / PONDER_MODELS_FROM_PREFIX / "countdown";
    if (fs::is_directory(installed, failed)) return installed.string();
  }
  const fs::path source = fs::path(PONDER_SOURCE_MODELS) / "countdown";
  if (fs::is_directory(source, failed)) return source.string();
  throw Failure("the shipped model is neither in ../" PONDER_MODELS_FROM_PREFIX
                " beside this command nor in " PONDER_SOURCE_MODELS "; name a MODEL folder");
}

}  // namespace ponder::tool
