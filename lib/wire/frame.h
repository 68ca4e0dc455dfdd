// Immutable bytes with a shared owner: what travels beside an envelope, without being copied on the way.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace slipway {

class Frame {
 public:
  Frame() = default;

  // `bytes` live as long as `owner` does.
  Frame(std::span<const std::byte> bytes, std::shared_ptr<const void> owner)
      : bytes_(bytes), owner_(std::move(owner)) {}

  [[nodiscard]] static Frame copy(std::span<const std::byte> bytes) {
    return of(std::vector<std::byte>(bytes.begin(), bytes.end()));
  }
  [[nodiscard]] static Frame copy(std::string_view text) { return of(std::string(text)); }

  // Takes a std::vector of bytes or numbers, or a std::string, without copying it.
  template <class Container>
  [[nodiscard]] static Frame of(Container container) {
    auto owner = std::make_shared<const Container>(std::move(container));
    const auto bytes = std::as_bytes(std::span(owner->data(), owner->size()));
    return Frame(bytes, std::move(owner));
  }

  [[nodiscard]] std::span<const std::byte> bytes() const { return bytes_; }
  [[nodiscard]] const std::byte* data() const { return bytes_.data(); }
  [[nodiscard]] std::size_t size() const { return bytes_.size(); }
  [[nodiscard]] std::string_view text() const { return {reinterpret_cast<const char*>(bytes_.data()), bytes_.size()}; }
  [[nodiscard]] const std::shared_ptr<const void>& owner() const { return owner_; }

  // `size` bytes from `offset` on, with the same owner.
  [[nodiscard]] Frame part(std::size_t offset, std::size_t size) const {
    return Frame(bytes_.subspan(offset, size), owner_);
  }

 private:
  std::span<const std::byte> bytes_;
  std::shared_ptr<const void> owner_;
};

}  // namespace slipway
