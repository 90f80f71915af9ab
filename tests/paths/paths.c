#include "tests/paths/paths.h"

const char kSourceDir[] = PONDER_SOURCE_DIR;
const char kSharedDir[] = PONDER_SHARED_DIR;
const char kCountdownModel[] = PONDER_SOURCE_DIR "/models/countdown";
const char kMixtureModel[] = PONDER_SHARED_DIR "/oracle/A/dsv3-fp8";
const char kMakeCheckpoint[] = PONDER_MAKE_CHECKPOINT;
