// A model version in memory, ready to run; shared by everyone who uses it and never changed.
#pragma once

#include <memory>
#include <optional>

#include "lib/base/sha256.h"
#include "lib/wire/file_cache.h"
#include "schema/messages.h"
#include "services/inferencer/batcher.h"
#include "services/inferencer/torch_model.h"

namespace slipway::inferencer {

struct LoadedVersion {
  msg::VersionKey key;
  Signature signature;
  std::shared_ptr<const TorchModel> model;
  Digest digest{};                   // of the module's file
  bool uploaded = false;             // a stranger's program
  std::optional<CachedFile> file{};  // kept in the cache meanwhile; none: not from there
};

}  // namespace slipway::inferencer
