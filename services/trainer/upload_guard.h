// Gives an upload up again unless it was taken: an open one holds one of the registry's few places for minutes.
#pragma once

#include <utility>

#include "lib/wire/blob_transfer.h"

namespace slipway::trainer {

// Life: must not outlive the caller. Does not wait for the registry.
class UploadGuard {
 public:
  UploadGuard(Caller& registry, UploadId upload) : registry_(registry), upload_(std::move(upload)) {}
  ~UploadGuard() {
    if (!taken_) abort_upload(registry_, upload_);
  }
  UploadGuard(const UploadGuard&) = delete;
  UploadGuard& operator=(const UploadGuard&) = delete;

  void taken() { taken_ = true; }  // by a commit: the registry has ended it

 private:
  Caller& registry_;
  const UploadId upload_;
  bool taken_ = false;
};

}  // namespace slipway::trainer
