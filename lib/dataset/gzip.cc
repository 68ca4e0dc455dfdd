#include "lib/dataset/gzip.h"

#include <zlib.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <format>

namespace slipway::dataset {
namespace {

constexpr std::size_t kOutputBytes = 64 << 10;
constexpr int kGzipOnly = 16 + MAX_WBITS;

}  // namespace

bool is_gzip(std::span<const std::byte> bytes) {
  return bytes.size() >= 2 && bytes[0] == std::byte{0x1f} && bytes[1] == std::byte{0x8b};
}

struct Gunzip::State {
  explicit State(std::uint64_t max) : max_output_bytes(max) { ready = inflateInit2(&stream, kGzipOnly) == Z_OK; }
  ~State() { inflateEnd(&stream); }

  z_stream stream{};
  bool ready = false;
  const std::uint64_t max_output_bytes;
  std::uint64_t output_bytes = 0;
  std::uint64_t input_bytes = 0;
  std::uint64_t members = 0;  // whole ones
  bool in_member = false;     // some bytes of a further one have come
  std::array<std::byte, kOutputBytes> output;
};

Gunzip::Gunzip(std::uint64_t max_output_bytes) : state_(std::make_unique<State>(max_output_bytes)) {}
Gunzip::~Gunzip() = default;
Gunzip::Gunzip(Gunzip&&) noexcept = default;
Gunzip& Gunzip::operator=(Gunzip&&) noexcept = default;

std::uint64_t Gunzip::output_bytes() const { return state_->output_bytes; }

Result<void> Gunzip::push(std::span<const std::byte> compressed, const Sink& sink) {
  State& state = *state_;
  z_stream& stream = state.stream;
  if (!state.ready) return fail(Code::kInternal, "zlib could not be set up");

  bool output_full = false;
  while (!compressed.empty() || output_full) {
    const auto taken_at_once = std::min<std::size_t>(compressed.size(), 1 << 30);  // zlib counts in 32 bits
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(compressed.data()));
    stream.avail_in = static_cast<uInt>(taken_at_once);
    stream.next_out = reinterpret_cast<Bytef*>(state.output.data());
    stream.avail_out = static_cast<uInt>(state.output.size());
    if (!compressed.empty()) state.in_member = true;

    const int status = inflate(&stream, Z_NO_FLUSH);
    const std::size_t read = taken_at_once - stream.avail_in;
    const std::size_t written = state.output.size() - stream.avail_out;
    compressed = compressed.subspan(read);
    state.input_bytes += read;
    output_full = stream.avail_out == 0;

    if (status != Z_OK && status != Z_STREAM_END && status != Z_BUF_ERROR) {
      // zlib has decoded nothing of this member when its header is already wrong.
      if (state.members > 0 && stream.total_out == 0 && stream.total_in <= 10) {
        return fail(Code::kInvalidArgument, std::format("gzip: other bytes follow the end of the compressed data, "
                                                        "near byte {}",
                                                        state.input_bytes));
      }
      return fail(Code::kInvalidArgument, std::format("gzip: damaged near byte {} ({})", state.input_bytes,
                                                      stream.msg != nullptr ? stream.msg : zError(status)));
    }
    if (written > state.max_output_bytes - state.output_bytes) {
      return fail(Code::kTooLarge,
                  std::format("gzip: more than {} bytes come out, which is the limit", state.max_output_bytes));
    }
    state.output_bytes += written;
    if (written > 0) {
      if (auto taken = sink(std::span(state.output).first(written)); !taken) return taken;
    }
    if (status == Z_STREAM_END) {
      ++state.members;
      state.in_member = false;
      output_full = false;
      inflateReset(&stream);
    } else if (status == Z_BUF_ERROR && read == 0 && written == 0) {
      break;  // nothing more can be done with what has come
    }
  }
  return {};
}

Result<void> Gunzip::finish() const {
  if (state_->in_member || state_->members == 0) {
    return fail(Code::kInvalidArgument,
                std::format("gzip: cut off after {} bytes, in the middle of the compressed data", state_->input_bytes));
  }
  return {};
}

Result<std::vector<std::byte>> read_maybe_gzip_file(const std::filesystem::path& path, std::uint64_t max_bytes) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rbe"), &std::fclose);
  if (!file) return fail(Code::kNotFound, std::format("{}: {}", path.string(), std::strerror(errno)));

  const auto named = [&](Error error) {
    error.message = std::format("{}: {}", path.string(), error.message);
    return std::unexpected(std::move(error));
  };
  std::vector<std::byte> content;
  const auto append = [&](std::span<const std::byte> bytes) -> Result<void> {
    if (bytes.size() > max_bytes - content.size()) {
      return fail(Code::kTooLarge, std::format("more than {} bytes, which is the limit", max_bytes));
    }
    content.insert(content.end(), bytes.begin(), bytes.end());
    return {};
  };

  std::vector<std::byte> piece(1 << 20);
  std::unique_ptr<Gunzip> gunzip;
  bool first = true;
  for (;;) {
    const std::size_t count = std::fread(piece.data(), 1, piece.size(), file.get());
    if (count < piece.size() && std::ferror(file.get()) != 0) {
      return fail(Code::kUnavailable, std::format("{}: {}", path.string(), std::strerror(errno)));
    }
    const auto bytes = std::span<const std::byte>(piece).first(count);
    if (first && is_gzip(bytes)) gunzip = std::make_unique<Gunzip>(max_bytes);
    first = false;
    auto taken = gunzip ? gunzip->push(bytes, append) : append(bytes);
    if (!taken) return named(std::move(taken).error());
    if (count < piece.size()) break;
  }
  if (gunzip) {
    if (auto whole = gunzip->finish(); !whole) return named(std::move(whole).error());
  }
  return content;
}

}  // namespace slipway::dataset
