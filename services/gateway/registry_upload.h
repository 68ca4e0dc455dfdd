// One upload to the registry, written while its bytes arrive: a bounded window of parts, whatever the size.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "services/gateway/registry_client.h"

namespace slipway::gateway {

// Life: a coroutine's local; parts under way at destruction are forgotten, so abort() what is not committed.
// Threads: the coroutine's.
class RegistryUpload {
 public:
  static constexpr std::size_t kPartBytes = 1 << 20;
  static constexpr int kWindow = 8;  // parts sent and not yet answered

  RegistryUpload(RegistryClient& registry, Executor executor, std::string request_id);
  ~RegistryUpload();
  RegistryUpload(const RegistryUpload&) = delete;
  RegistryUpload& operator=(const RegistryUpload&) = delete;

  // Errors of all: kUnavailable (no answer), and what the registry says of an earlier part.
  Task<Result<void>> open();

  // Begins a file; the one before must have ended. `decompress`: gunzip while storing.
  void begin_file(std::string name, bool decompress);
  Task<Result<void>> write(std::string_view bytes);
  Task<Result<void>> end_file();

  // The files as stored, once all are acknowledged.
  Task<Result<std::vector<StoredFile>>> files();

  // Tells the registry to forget it; no answer is waited for.
  void abort();

  [[nodiscard]] const UploadId& id() const { return id_; }

 private:
  struct Window;
  Task<Result<void>> send_part(bool last);

  RegistryClient& registry_;
  const std::string request_id_;
  UploadId id_;
  std::string name_;
  bool decompress_ = false;
  std::uint64_t offset_ = 0;
  std::string part_;
  std::shared_ptr<Window> window_;
};

}  // namespace slipway::gateway
