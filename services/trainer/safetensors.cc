#include "services/trainer/safetensors.h"

#include <algorithm>
#include <boost/json.hpp>
#include <cstring>
#include <format>
#include <string>

#include "lib/tensor/shape.h"

namespace slipway::trainer {
namespace {

namespace json = boost::json;

struct TypeName {
  torch::ScalarType type;
  std::string_view name;
  std::size_t bytes;
};
constexpr TypeName kTypes[] = {
    {torch::kFloat32, "F32", 4}, {torch::kFloat64, "F64", 8}, {torch::kInt64, "I64", 8}, {torch::kUInt8, "U8", 1}};

std::unexpected<Error> damaged(std::string what) { return fail(Code::kDataLoss, "safetensors: " + std::move(what)); }

std::optional<std::vector<std::int64_t>> whole_numbers(const json::value* value) {
  if (value == nullptr || !value->is_array()) return std::nullopt;
  std::vector<std::int64_t> result;
  for (const auto& item : value->get_array()) {
    if (!item.is_int64() || item.get_int64() < 0) return std::nullopt;
    result.push_back(item.get_int64());
  }
  return result;
}

struct Entry {
  std::string name;
  const TypeName* type = nullptr;
  std::vector<std::int64_t> shape;
  std::size_t begin = 0, end = 0;
};

Result<Entry> read_entry(const json::key_value_pair& item, std::size_t data_bytes) {
  Entry entry;
  entry.name = item.key();
  const auto* object = item.value().if_object();
  if (object == nullptr) return damaged(std::format("'{}' is not an object", entry.name));
  const auto* type = object->if_contains("dtype");
  const auto shape = whole_numbers(object->if_contains("shape"));
  const auto offsets = whole_numbers(object->if_contains("data_offsets"));
  if (type == nullptr || !type->is_string() || !shape || !offsets || offsets->size() != 2) {
    return damaged(std::format("'{}' lacks dtype, shape or data_offsets", entry.name));
  }
  const std::string_view type_name = type->get_string();
  const auto known = std::ranges::find(kTypes, type_name, &TypeName::name);
  if (known == std::end(kTypes)) return damaged(std::format("'{}' has dtype '{}'", entry.name, type_name));
  entry.type = &*known;
  entry.shape = *shape;
  entry.begin = static_cast<std::size_t>((*offsets)[0]);
  entry.end = static_cast<std::size_t>((*offsets)[1]);
  const auto count = element_count(entry.shape);
  if (!count) return damaged(std::format("'{}': {}", entry.name, count.error().message));
  if (entry.begin > entry.end || entry.end > data_bytes) {
    return damaged(std::format("'{}' lies at {}..{} of {} bytes", entry.name, entry.begin, entry.end, data_bytes));
  }
  const std::size_t have = entry.end - entry.begin;
  if (have % known->bytes != 0 || have / known->bytes != static_cast<std::size_t>(*count)) {
    return damaged(std::format("'{}' of shape {} has {} bytes", entry.name, to_string(entry.shape), have));
  }
  return entry;
}

}  // namespace

Result<std::vector<std::byte>> write_safetensors(const NamedTensors& tensors) {
  if (tensors.size() > kMaxSafetensorsTensors) {
    return fail(Code::kTooLarge,
                std::format("{} tensors in one file, at most {}", tensors.size(), kMaxSafetensorsTensors));
  }
  json::object header;
  std::size_t offset = 0;
  for (const auto& [name, tensor] : tensors) {
    const auto type = std::ranges::find(kTypes, tensor.scalar_type(), &TypeName::type);
    if (type == std::end(kTypes)) {
      return fail(Code::kUnsupported, std::format("'{}' has dtype {}", name, c10::toString(tensor.scalar_type())));
    }
    const std::size_t size = static_cast<std::size_t>(tensor.numel()) * type->bytes;
    json::array shape;
    for (const auto d : tensor.sizes()) shape.push_back(d);
    header[name] = {{"dtype", type->name}, {"shape", shape}, {"data_offsets", {offset, offset + size}}};
    offset += size;
  }
  std::string text = json::serialize(header);
  text.append((8 - text.size() % 8) % 8, ' ');  // the data then starts aligned
  if (text.size() > kMaxSafetensorsHeaderBytes)
    return fail(Code::kTooLarge, "the header of a checkpoint is over 1 MiB");

  std::vector<std::byte> result(8 + text.size() + offset);
  const std::uint64_t length = text.size();
  std::memcpy(result.data(), &length, 8);
  std::memcpy(result.data() + 8, text.data(), text.size());
  std::byte* at = result.data() + 8 + text.size();
  for (const auto& [name, tensor] : tensors) {
    const auto whole = tensor.contiguous();
    if (whole.nbytes() > 0) std::memcpy(at, whole.const_data_ptr(), whole.nbytes());
    at += whole.nbytes();
  }
  return result;
}

Result<NamedTensors> read_safetensors(std::span<const std::byte> bytes) {
  std::uint64_t length = 0;
  if (bytes.size() < 8) return damaged(std::format("{} bytes", bytes.size()));
  std::memcpy(&length, bytes.data(), 8);
  if (length > kMaxSafetensorsHeaderBytes || length > bytes.size() - 8) {
    return damaged(std::format("a header of {} bytes in a file of {}", length, bytes.size()));
  }
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + 8, length);
  boost::system::error_code error;
  const auto parsed = json::parse(text, error);
  if (error || !parsed.is_object()) return damaged("the header is not a JSON object");
  if (parsed.get_object().size() > kMaxSafetensorsTensors) return damaged("too many tensors");

  const auto data = bytes.subspan(8 + length);
  std::vector<Entry> entries;
  for (const auto& item : parsed.get_object()) {
    if (item.key() == "__metadata__") continue;
    auto entry = read_entry(item, data.size());
    if (!entry) return std::unexpected(std::move(entry).error());
    entries.push_back(std::move(*entry));
  }
  std::ranges::sort(entries, {}, [](const Entry& e) { return std::pair(e.begin, e.end); });
  std::size_t at = 0;
  for (const auto& entry : entries) {
    if (entry.begin != at) return damaged(std::format("'{}' starts at {}, not at {}", entry.name, entry.begin, at));
    at = entry.end;
  }
  if (at != data.size()) return damaged(std::format("{} bytes after the last tensor", data.size() - at));

  NamedTensors result;
  for (const auto& entry : entries) {
    auto tensor = torch::empty(entry.shape, entry.type->type);
    if (entry.end > entry.begin) std::memcpy(tensor.data_ptr(), data.data() + entry.begin, entry.end - entry.begin);
    result.emplace_back(entry.name, std::move(tensor));
  }
  return result;
}

}  // namespace slipway::trainer
