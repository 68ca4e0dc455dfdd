// SHA-256, whole or piece by piece, and its hexadecimal form.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "lib/base/error.h"
#include "schema/records.h"

namespace slipway {

class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;

  void update(std::span<const std::byte> bytes);
  void update(std::string_view text) { update(std::as_bytes(std::span(text))); }

  // The digest of everything so far; the object then starts anew.
  [[nodiscard]] Digest finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

[[nodiscard]] Digest sha256(std::span<const std::byte> bytes);
[[nodiscard]] inline Digest sha256(std::string_view text) { return sha256(std::as_bytes(std::span(text))); }

// 64 lower-case hexadecimal digits; "" for the empty digest.
[[nodiscard]] std::string to_hex(const Digest& digest);

// Errors: kInvalidArgument (not 64 hexadecimal digits).
[[nodiscard]] Result<Digest> digest_from_hex(std::string_view hex);

}  // namespace slipway
