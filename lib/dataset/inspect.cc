#include "lib/dataset/inspect.h"

#include <algorithm>
#include <array>
#include <format>
#include <optional>

#include "lib/base/sha256.h"
#include "lib/dataset/csv.h"
#include "lib/dataset/idx.h"

namespace slipway::dataset {
namespace {

constexpr std::array kRoles{kTrainImages, kTrainLabels, kTestImages, kTestLabels};
enum Role : std::size_t { kRoleTrainImages, kRoleTrainLabels, kRoleTestImages, kRoleTestLabels };

class SpanReader : public ByteReader {
 public:
  explicit SpanReader(std::span<const std::byte> bytes) : bytes_(bytes) {}
  Result<std::span<const std::byte>> next() override { return std::exchange(bytes_, {}); }

 private:
  std::span<const std::byte> bytes_;
};

// The name without its folders.
std::string_view base_name(std::string_view path) {
  const auto slash = path.find_last_of("/\\");
  return slash == std::string_view::npos ? path : path.substr(slash + 1);
}

// Which of the four files `name` is; "train-images.idx3-ubyte" is the same as "train-images-idx3-ubyte".
std::optional<std::size_t> role_of(std::string_view name) {
  std::string plain(base_name(name));
  if (const auto dot = plain.rfind(".idx"); dot != std::string::npos) plain[dot] = '-';
  const auto* found = std::ranges::find(kRoles, plain);
  if (found == kRoles.end()) return std::nullopt;
  return static_cast<std::size_t>(found - kRoles.begin());
}

bool is_csv(std::string_view name) {
  const auto base = base_name(name);
  constexpr std::string_view kSuffix = ".csv";
  return base.size() > kSuffix.size() &&
         std::ranges::equal(base.substr(base.size() - kSuffix.size()), kSuffix,
                            [](unsigned char a, char b) { return std::tolower(a) == b; });
}

std::unexpected<Error> named(std::string_view file, Error error) {
  error.message = std::format("{}: {}", file, error.message);
  return std::unexpected(std::move(error));
}

// Passes the whole file to `sink` and describes it as stored.
template <class Sink>
Result<StoredFile> read_through(InputFile& file, std::string name, Sink sink) {
  Sha256 hash;
  StoredFile stored;
  stored.name = std::move(name);
  for (;;) {
    auto piece = file.bytes->next();
    if (!piece) return std::unexpected(std::move(piece).error());
    if (piece->empty()) break;
    if (file.digest.empty()) hash.update(*piece);
    stored.size_bytes += piece->size();
    if (auto taken = sink(*piece); !taken) return std::unexpected(std::move(taken).error());
  }
  stored.digest = file.digest.empty() ? hash.finish() : file.digest;
  return stored;
}

// Checks an IDX file of u8 as its bytes go by.
struct IdxScan {
  std::vector<std::byte> head;  // until the header is whole
  std::optional<IdxHeader> header;
  std::uint64_t payload_bytes = 0;
  std::uint8_t largest = 0;

  Result<void> push(std::span<const std::byte> piece, std::size_t dimensions) {
    if (!header) {
      const std::size_t wanted = 4 + 4 * dimensions;
      const std::size_t taken = std::min(wanted - head.size(), piece.size());
      head.insert(head.end(), piece.begin(), piece.begin() + static_cast<std::ptrdiff_t>(taken));
      piece = piece.subspan(taken);
      if (head.size() < wanted) return {};
      if (auto parsed = read_header(dimensions); !parsed) return parsed;
    }
    payload_bytes += piece.size();
    for (const std::byte byte : piece) largest = std::max(largest, std::to_integer<std::uint8_t>(byte));
    return {};
  }

  Result<void> finish(std::size_t dimensions) {
    if (!header) {
      if (auto parsed = read_header(dimensions); !parsed) return parsed;
    }
    return check_idx_payload(*header, payload_bytes);
  }

  Result<void> read_header(std::size_t dimensions) {
    auto parsed = parse_idx_header(head);
    if (!parsed) {
      // With more dimensions than its name says the header is cut off only because so much of it was kept.
      const bool magic = head.size() >= 4 && head[0] == std::byte{0} && head[1] == std::byte{0};
      if (!magic || std::to_integer<std::size_t>(head[3]) <= dimensions) {
        return std::unexpected(std::move(parsed).error());
      }
      return fail(Code::kInvalidArgument, std::format("an IDX file of {} dimensions, wanted {}",
                                                      std::to_integer<unsigned>(head[3]), dimensions));
    }
    if (parsed->type != IdxType::kU8) {
      return fail(Code::kUnsupported, std::format("holds {}, wanted u8", idx_type_name(parsed->type)));
    }
    if (parsed->shape.size() != dimensions) {
      return fail(Code::kInvalidArgument,
                  std::format("an IDX file of {} dimensions, wanted {}", parsed->shape.size(), dimensions));
    }
    if (std::ranges::contains(parsed->shape, 0)) return fail(Code::kInvalidArgument, "announces no data");
    header = std::move(*parsed);
    return {};
  }
};

// What of the content makes the data set what it is.
Digest digest_of(const Dataset& dataset) {
  std::string description = std::format("slipway dataset 1\nformat {}\n", dataset.format);
  for (const StoredFile& file : dataset.files) {
    const std::string_view role = dataset.format == "csv" ? std::string_view("table") : std::string_view(file.name);
    description += std::format("file {} {}\n", role, to_hex(file.digest));
  }
  return sha256(description);
}

Result<Dataset> inspect_idx(std::vector<InputFile> files) {
  std::array<std::optional<InputFile>, kRoles.size()> by_role;
  for (InputFile& file : files) {
    const auto role = role_of(file.name);
    if (!role) {
      return fail(Code::kInvalidArgument, std::format("{}: not a file of an IDX data set, which are {}, {}, {} and {}, "
                                                      "each plain or .gz",
                                                      file.name, kTrainImages, kTrainLabels, kTestImages, kTestLabels));
    }
    if (by_role[*role]) {
      return fail(Code::kInvalidArgument, std::format("{}: {} came twice", file.name, kRoles[*role]));
    }
    by_role[*role] = std::move(file);
  }
  for (const std::size_t role : {kRoleTrainImages, kRoleTrainLabels}) {
    if (!by_role[role]) return fail(Code::kInvalidArgument, std::format("{} is missing", kRoles[role]));
  }
  if (by_role[kRoleTestImages].has_value() != by_role[kRoleTestLabels].has_value()) {
    const std::size_t missing = by_role[kRoleTestImages] ? kRoleTestLabels : kRoleTestImages;
    return fail(Code::kInvalidArgument, std::format("{} is missing, {} came", kRoles[missing],
                                                    kRoles[kRoleTestImages + kRoleTestLabels - missing]));
  }

  Dataset dataset;
  dataset.format = "idx";
  dataset.dtype = DType::kU8;
  std::array<IdxScan, kRoles.size()> scans;
  for (std::size_t role = 0; role < kRoles.size(); ++role) {
    if (!by_role[role]) continue;
    InputFile& file = *by_role[role];
    IdxScan& scan = scans[role];
    const std::size_t dimensions = role == kRoleTrainImages || role == kRoleTestImages ? 3 : 1;
    auto stored = read_through(file, std::string(kRoles[role]),
                               [&](std::span<const std::byte> piece) { return scan.push(piece, dimensions); });
    if (!stored) return named(file.name, std::move(stored).error());
    if (auto whole = scan.finish(dimensions); !whole) return named(file.name, std::move(whole).error());
    dataset.size_bytes += stored->size_bytes;
    dataset.files.push_back(std::move(*stored));
  }

  const auto& shape = scans[kRoleTrainImages].header->shape;
  dataset.row_shape.assign(shape.begin() + 1, shape.end());
  dataset.rows = static_cast<std::uint64_t>(shape[0]);
  dataset.classes = scans[kRoleTrainLabels].largest + 1U;
  if (const auto labels = scans[kRoleTrainLabels].header->shape[0]; labels != shape[0]) {
    return fail(Code::kInvalidArgument,
                std::format("{} holds {} images, {} {} labels", kTrainImages, shape[0], kTrainLabels, labels));
  }
  if (!by_role[kRoleTestImages]) return dataset;

  const auto& test_shape = scans[kRoleTestImages].header->shape;
  if (const auto labels = scans[kRoleTestLabels].header->shape[0]; labels != test_shape[0]) {
    return fail(Code::kInvalidArgument,
                std::format("{} holds {} images, {} {} labels", kTestImages, test_shape[0], kTestLabels, labels));
  }
  if (test_shape[1] != shape[1] || test_shape[2] != shape[2]) {
    return fail(Code::kInvalidArgument, std::format("{} holds images of {}x{}, {} of {}x{}", kTestImages, test_shape[1],
                                                    test_shape[2], kTrainImages, shape[1], shape[2]));
  }
  dataset.test_rows = static_cast<std::uint64_t>(test_shape[0]);
  dataset.classes = std::max<std::uint64_t>(dataset.classes, scans[kRoleTestLabels].largest + 1U);
  return dataset;
}

Result<Dataset> inspect_csv(InputFile file) {
  TableScan scan;
  auto stored = read_through(file, std::string(base_name(file.name)),
                             [&](std::span<const std::byte> piece) { return scan.push(piece); });
  if (!stored) return named(file.name, std::move(stored).error());
  if (auto whole = scan.finish(); !whole) return named(file.name, std::move(whole).error());

  Dataset dataset;
  dataset.format = "csv";
  dataset.dtype = DType::kF32;
  dataset.rows = scan.rows();
  dataset.columns = scan.columns();
  dataset.row_shape = {static_cast<std::int64_t>(dataset.columns.size())};
  dataset.size_bytes = stored->size_bytes;
  dataset.files.push_back(std::move(*stored));
  return dataset;
}

}  // namespace

std::unique_ptr<ByteReader> read_from(std::span<const std::byte> bytes) { return std::make_unique<SpanReader>(bytes); }

Result<Dataset> inspect(std::vector<InputFile> files) {
  if (files.empty()) return fail(Code::kInvalidArgument, "no files came");

  const auto tables = std::ranges::count_if(files, [](const InputFile& file) { return is_csv(file.name); });
  if (tables > 0 && files.size() != 1) {
    return fail(Code::kInvalidArgument,
                std::format("{} files came, {} of them .csv: a table is exactly one .csv file", files.size(), tables));
  }
  auto dataset = tables == 1 ? inspect_csv(std::move(files.front())) : inspect_idx(std::move(files));
  if (dataset) dataset->digest = digest_of(*dataset);
  return dataset;
}

}  // namespace slipway::dataset
