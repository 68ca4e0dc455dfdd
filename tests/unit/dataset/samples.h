// Small data sets as bytes, and what wraps them in gzip.
#pragma once

#include <zlib.h>

#include <cstddef>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace slipway::dataset {

using Bytes = std::vector<std::byte>;

inline Bytes bytes_of(std::string_view text) {
  const auto view = std::as_bytes(std::span(text));
  return {view.begin(), view.end()};
}

inline std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

inline Bytes gzip(std::span<const std::byte> content) {
  z_stream stream{};
  deflateInit2(&stream, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY);
  Bytes out(deflateBound(&stream, content.size()) + 32);
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(content.data()));
  stream.avail_in = static_cast<uInt>(content.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  deflate(&stream, Z_FINISH);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

inline Bytes idx(int type, std::initializer_list<std::uint32_t> shape, std::initializer_list<int> payload) {
  Bytes out{std::byte{0}, std::byte{0}, static_cast<std::byte>(type), static_cast<std::byte>(shape.size())};
  for (const auto dimension : shape) {
    for (int shift = 24; shift >= 0; shift -= 8) out.push_back(static_cast<std::byte>(dimension >> shift));
  }
  for (const int value : payload) out.push_back(static_cast<std::byte>(value));
  return out;
}

}  // namespace slipway::dataset
