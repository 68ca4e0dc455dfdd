#include "services/inferencer/torchscript_scan.h"

#include <zip.h>

#include <algorithm>
#include <cctype>
#include <format>
#include <memory>
#include <set>
#include <string_view>

#include "services/inferencer/code_scan.h"
#include "services/inferencer/pickle_scan.h"
#include "services/inferencer/zip_layout.h"

namespace slipway::inferencer {
namespace {

struct CloseZip {
  void operator()(zip_t* archive) const { zip_discard(archive); }
};
using Zip = std::unique_ptr<zip_t, CloseZip>;
struct CloseEntry {
  void operator()(zip_file_t* entry) const { zip_fclose(entry); }
};

std::unexpected<Error> not_one(std::string_view why) {
  return fail(Code::kInvalidArgument, std::format("not a TorchScript file: {}", why));
}
std::unexpected<Error> refused(std::string_view why) {
  return fail(Code::kInvalidArgument, std::format("the TorchScript file is refused: {}", why));
}

Result<Zip> open_zip(std::span<const std::byte> file) {
  // First, since a zip may hide behind, between or under other bytes, and readers then need not agree on what it holds.
  if (auto good = check_zip_layout(file); !good) return std::unexpected(std::move(good).error());
  zip_error_t error;
  zip_error_init(&error);
  zip_source_t* source = zip_source_buffer_create(file.data(), file.size(), 0, &error);
  if (source == nullptr) return not_one("the archive cannot be opened");
  Zip archive(zip_open_from_source(source, ZIP_RDONLY | ZIP_CHECKCONS, &error));
  if (!archive) {
    auto failure = not_one(std::format("its zip archive is damaged ({})", zip_error_strerror(&error)));
    zip_source_free(source);
    zip_error_fini(&error);
    return failure;
  }
  zip_error_fini(&error);
  return archive;
}

enum class Role : std::uint8_t { kPickle, kText, kStorage, kSmall, kUnknown };

Role role_of(std::string_view name) {
  if (name == "data.pkl" || name == "constants.pkl") return Role::kPickle;
  if (name.starts_with("code/")) return Role::kText;
  if (name.starts_with("data/") || name.starts_with("constants/")) return Role::kStorage;
  // torch.jit.trace leaves its example inputs in the file; they are not read.
  const bool example = name == "traced_inputs.pkl" || name.starts_with("traced_inputs/");
  const bool mark =
      name == "version" || name == "byteorder" || name == ".format_version" || name == ".storage_alignment";
  if (example || mark || name.starts_with(".data/") || name.starts_with("extra/")) {
    return Role::kSmall;
  }
  return Role::kUnknown;
}

bool is_debug(std::string_view name) { return name.starts_with("code/") && name.ends_with(".debug_pkl"); }
bool is_source(std::string_view name) { return name.starts_with("code/") && name.ends_with(".py"); }

Result<void> check_path(std::string_view name) {
  const auto bad = [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == '\\' || c == ':' || c == 0x7f; };
  if (name.empty() || name.size() > 4096 || name.starts_with('/') || name.ends_with('/') ||
      std::ranges::any_of(name, bad)) {
    return refused("an entry has a name that is not a plain path");
  }
  for (std::size_t from = 0; from <= name.size();) {
    const auto to = std::min(name.find('/', from), name.size());
    const auto part = name.substr(from, to - from);
    if (part.empty() || part == "." || part == "..") return refused(std::format("entry '{}' leaves its folder", name));
    from = to + 1;
  }
  return {};
}

Result<std::string> read_entry(zip_t* archive, std::uint64_t index, const std::string& name, std::uint64_t size) {
  const std::unique_ptr<zip_file_t, CloseEntry> entry(zip_fopen_index(archive, index, 0));
  if (!entry) return not_one(std::format("entry '{}' cannot be read", name));
  std::string bytes(size, '\0');
  std::uint64_t got = 0;
  while (got < size) {
    const auto n = zip_fread(entry.get(), bytes.data() + got, size - got);
    if (n <= 0) return not_one(std::format("entry '{}' is damaged", name));
    got += static_cast<std::uint64_t>(n);
  }
  char more = 0;  // also makes libzip compare the checksum
  if (zip_fread(entry.get(), &more, 1) != 0) return not_one(std::format("entry '{}' is damaged", name));
  return bytes;
}

std::string lower_case(std::string text) {
  std::ranges::transform(text, text.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

}  // namespace

Result<ScannedArchive> scan_torchscript(std::span<const std::byte> file, const ScanLimits& limits) {
  auto archive = open_zip(file);
  if (!archive) return std::unexpected(std::move(archive).error());
  const auto entries = zip_get_num_entries(archive->get(), 0);
  if (entries <= 0) return not_one("its archive is empty");
  ScannedArchive found{.entries = static_cast<std::size_t>(entries), .read = {}, .storage_bytes = {}};
  if (found.entries > limits.max_entries) {
    return fail(Code::kTooLarge,
                std::format("the TorchScript file has {} entries, at most {} are taken", entries, limits.max_entries));
  }

  std::string root;
  std::set<std::string> names;  // in lower case: torch looks entries up without regard to case
  std::map<std::string, std::uint64_t> storages;
  std::uint64_t text_bytes = 0;
  std::uint64_t pickle_bytes = 0;
  for (std::uint64_t i = 0; i < found.entries; ++i) {
    zip_stat_t entry;
    zip_stat_init(&entry);
    constexpr zip_uint64_t kNeeded =
        ZIP_STAT_NAME | ZIP_STAT_SIZE | ZIP_STAT_COMP_SIZE | ZIP_STAT_COMP_METHOD | ZIP_STAT_ENCRYPTION_METHOD;
    if (zip_stat_index(archive->get(), i, ZIP_FL_ENC_RAW, &entry) != 0 || (entry.valid & kNeeded) != kNeeded) {
      return not_one("its zip archive is damaged");
    }
    const std::string full = entry.name;
    if (auto good = check_path(full); !good) return std::unexpected(std::move(good).error());
    if (!names.insert(lower_case(full)).second) return refused(std::format("it has two entries named '{}'", full));
    const auto slash = full.find('/');
    if (slash == std::string::npos) return not_one(std::format("entry '{}' is in no folder", full));
    if (root.empty()) root = full.substr(0, slash);
    if (full.substr(0, slash) != root) return not_one("its entries are not all in one folder");
    if (entry.encryption_method != ZIP_EM_NONE) return refused(std::format("entry '{}' is encrypted", full));

    // Torch would find CODE/ as code/, and .DEBUG_PKL as .debug_pkl; nothing that writes such files uses capitals
    // there, so an entry is what torch may take it for, and named as torch asks for it.
    const std::string name = full.substr(slash + 1);
    const Role role = role_of(name);
    if (role != role_of(lower_case(name)) || is_debug(name) != is_debug(lower_case(name)) ||
        is_source(name) != is_source(lower_case(name)))
      return refused(std::format("entry '{}' is written in another case than torch writes it", full));
    if (role == Role::kUnknown) return not_one(std::format("entry '{}' is not part of one", full));
    const bool text = role == Role::kText;
    // Torch packs nothing but debug tables and code; anything else packed is there to grow when it is read.
    if (entry.comp_method != ZIP_CM_STORE && !(text && entry.comp_method == ZIP_CM_DEFLATE)) {
      return refused(std::format("entry '{}' is compressed", full));
    }
    if (entry.comp_method == ZIP_CM_STORE && entry.size != entry.comp_size)
      return not_one("its zip archive is damaged");
    if (role == Role::kStorage) {
      storages[name] = entry.size;
      found.storage_bytes.push_back(entry.size);
    }
    if (role == Role::kStorage || role == Role::kSmall) continue;
    auto& total = text ? text_bytes : pickle_bytes;
    const auto most = text ? limits.max_text_bytes : limits.max_pickle_bytes;
    if (entry.size > most || (total += entry.size) > most) {
      return fail(Code::kTooLarge, std::format("the TorchScript file unpacks to more than {} bytes of {}", most,
                                               text ? "code" : "pickles"));
    }
    auto bytes = read_entry(archive->get(), i, full, entry.size);
    if (!bytes) return std::unexpected(std::move(bytes).error());
    found.read.emplace(name, std::move(*bytes));
  }
  std::ranges::sort(found.storage_bytes);

  const auto has = [&](std::string_view name) { return names.contains(lower_case(root + "/") + std::string(name)); };
  for (const std::string_view needed : {"data.pkl", "constants.pkl"}) {
    if (!has(needed)) return not_one(std::format("it has no {}", needed));
  }
  if (!has("version") && !has(".data/version")) return not_one("it has no version");
  if (std::ranges::none_of(found.read, [](const auto& entry) { return is_source(entry.first); }))
    return not_one("it has no code");

  for (const auto& [name, bytes] : found.read) {
    if (name.starts_with("code/") && !is_debug(name)) {
      if (auto good = scan_code(name, bytes); !good) return std::unexpected(std::move(good).error());
      continue;
    }
    const std::string folder = name == "data.pkl" ? "data/" : name == "constants.pkl" ? "constants/" : "";
    const auto storage = [&](const std::string& key) -> Result<std::uint64_t> {
      const auto at = folder.empty() ? storages.end() : storages.find(folder + key);
      if (at == storages.end()) return not_one(std::format("{} wants tensor '{}', which is not there", name, key));
      return at->second;
    };
    if (auto good = scan_pickle(name, std::as_bytes(std::span(bytes)), storage); !good) {
      return std::unexpected(std::move(good).error());
    }
  }
  return found;
}

}  // namespace slipway::inferencer
