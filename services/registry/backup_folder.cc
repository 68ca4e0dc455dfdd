#include "services/registry/backup_folder.h"

#include <algorithm>
#include <boost/json.hpp>
#include <cstring>
#include <format>
#include <limits>
#include <utility>

#include "lib/base/json_text.h"
#include "lib/base/sha256.h"
#include "services/registry/durable_file.h"

namespace slipway::registry {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

constexpr std::string_view kManifest = "backup.json";
constexpr std::string_view kChunkList = "chunks";
constexpr std::string_view kChunkFolder = "chunks/";
constexpr std::uint64_t kDigestBytes = sizeof(Digest::bytes);
constexpr std::size_t kMaxManifestBytes = 64 << 20;
constexpr std::size_t kMaxIdBytes = 64;
constexpr int kManifestFormat = 1;

// As backups are named: "20260131T120000Z", perhaps with "-2" behind it. What is named otherwise is somebody else's.
bool is_id(std::string_view text) {
  constexpr std::string_view kShape =
      "dddddddd"
      "T"
      "dddddd"
      "Z";
  const auto digit = [](char c) { return c >= '0' && c <= '9'; };
  if (text.size() < kShape.size() || text.size() > kMaxIdBytes) return false;
  for (std::size_t i = 0; i < kShape.size(); ++i) {
    if (kShape[i] == 'd' ? !digit(text[i]) : text[i] != kShape[i]) return false;
  }
  text.remove_prefix(kShape.size());
  return text.empty() || (text.size() > 1 && text.front() == '-' && std::ranges::all_of(text.substr(1), digit));
}

// A name within a backup's own folder.
bool is_plain_name(std::string_view name) {
  return !name.empty() && name.front() != '/' && !name.contains("..") && !name.contains('\0') && name != kManifest;
}

std::string text_of(const std::vector<std::byte>& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::string name_of(const Digest& digest) { return std::string(kChunkFolder) + chunk_name(digest); }

std::string manifest_text(const BackupManifest& manifest) {
  const msg::Backup& backup = manifest.backup;
  json::array files;
  for (const auto& file : manifest.files) {
    files.push_back({{"name", file.name}, {"size_bytes", file.size_bytes}, {"sha256", to_hex(file.digest)}});
  }
  const json::object document{{"format", kManifestFormat},
                              {"id", backup.id},
                              {"started_ms", backup.started_ms},
                              {"ended_ms", backup.ended_ms},
                              {"revision", backup.revision},
                              {"chunks", backup.chunks},
                              {"size_bytes", backup.size_bytes},
                              {"copied_bytes", backup.copied_bytes},
                              {"damaged_chunks", backup.damaged_chunks},
                              {"actor", backup.actor},
                              {"release", backup.release},
                              {"files", std::move(files)}};
  return json_text(document) + "\n";
}

// Throws what Boost.JSON throws.
BackupManifest manifest_from(std::string_view text) {
  const json::value value = json::parse(text);
  const json::object& document = value.as_object();
  const auto number = [&](const char* name) { return document.at(name).to_number<std::uint64_t>(); };
  const auto string = [&](const char* name) { return std::string(document.at(name).as_string()); };
  if (number("format") != kManifestFormat) throw std::runtime_error("it is of a later release's format");
  BackupManifest manifest{.backup = {.id = string("id"),
                                     .state = msg::BackupState::kSucceeded,
                                     .started_ms = static_cast<std::int64_t>(number("started_ms")),
                                     .ended_ms = static_cast<std::int64_t>(number("ended_ms")),
                                     .revision = number("revision"),
                                     .chunks = number("chunks"),
                                     .size_bytes = number("size_bytes"),
                                     .copied_bytes = number("copied_bytes"),
                                     .damaged_chunks = number("damaged_chunks"),
                                     .reason = {},
                                     .actor = string("actor"),
                                     .release = string("release")},
                          .files = {}};
  for (const json::value& item : document.at("files").as_array()) {
    const json::object& file = item.as_object();
    auto digest = digest_from_hex(file.at("sha256").as_string());
    std::string name(file.at("name").as_string());
    if (!digest || !is_plain_name(name))
      throw std::runtime_error(std::format("file '{}' is not one of a backup", name));
    manifest.files.push_back(
        {.name = std::move(name), .size_bytes = file.at("size_bytes").to_number<std::uint64_t>(), .digest = *digest});
  }
  return manifest;
}

}  // namespace

Result<std::vector<std::string>> BackupFolder::ids(bool whole) const {
  std::vector<std::string> found;
  std::error_code error;
  for (auto entry = fs::directory_iterator(folder_, error); !error && entry != fs::end(entry); entry.increment(error)) {
    std::string name = entry->path().filename().string();
    if (!is_id(name)) continue;
    // What cannot be told is not taken for unfinished, which is deleted.
    std::error_code unknown;
    const bool has_manifest = fs::exists(entry->path() / kManifest, unknown);
    if (unknown) return fail(Code::kInternal, std::format("backup {}: {}", name, unknown.message()));
    if (has_manifest == whole) found.push_back(std::move(name));
  }
  if (error && error != std::errc::no_such_file_or_directory)
    return fail(Code::kInternal, std::format("{}: {}", folder_.string(), error.message()));
  std::ranges::sort(found);
  return found;
}

std::unexpected<Error> BackupFolder::not_found(std::string_view id) const {
  std::string text = std::format("there is no backup '{}'", id);
  const auto there = ids(true);
  if (!there) return std::unexpected(there.error());
  text += there->empty() ? "; there is none at all" : ";";
  constexpr std::size_t kShown = 5;
  const std::size_t first = there->size() > kShown ? there->size() - kShown : 0;
  if (!there->empty()) text += first > 0 ? " the latest are" : " there are";
  for (std::size_t i = first; i < there->size(); ++i) text += std::format("{} {}", i == first ? "" : ",", (*there)[i]);
  return fail(Code::kNotFound, text);
}

Result<std::vector<msg::Backup>> BackupFolder::list() const {
  const auto there = ids(true);
  if (!there) return std::unexpected(there.error());
  std::vector<msg::Backup> all;
  for (const std::string& id : *there) {
    auto read = manifest(id);
    if (read) {
      all.push_back(std::move(read->backup));
    } else if (read.error().code != Code::kNotFound) {  // deleted meanwhile
      all.push_back({.id = id, .state = msg::BackupState::kFailed, .reason = read.error().message});
    }
  }
  std::ranges::stable_sort(all, {}, &msg::Backup::started_ms);
  return all;
}

Result<BackupManifest> BackupFolder::manifest(std::string_view id) const {
  if (!is_id(id)) return not_found(id);
  const auto bytes = read_at(path_of(id) / kManifest, 0, kMaxManifestBytes, "backup's manifest");
  if (!bytes && bytes.error().code == Code::kNotFound) return not_found(id);
  if (!bytes) return std::unexpected(bytes.error());
  try {
    auto manifest = manifest_from(text_of(*bytes));
    if (manifest.backup.id == id) return manifest;
    return fail(Code::kDataLoss, std::format("backup {}: its manifest is that of {}", id, manifest.backup.id));
  } catch (const std::exception& failure) {
    return fail(Code::kDataLoss, std::format("backup {}: its manifest cannot be read: {}", id, failure.what()));
  }
}

Result<std::vector<Digest>> BackupFolder::chunks(std::string_view id) const {
  const auto known = manifest(id);
  if (!known) return std::unexpected(known.error());
  const fs::path path = path_of(id) / kChunkList;
  const auto bytes = read_at(path, 0, std::numeric_limits<std::size_t>::max(), "list of chunks");
  if (!bytes) return std::unexpected(bytes.error());
  const auto listed = std::ranges::find(known->files, kChunkList, &BackupManifest::File::name);
  if (bytes->size() % kDigestBytes != 0 || bytes->size() / kDigestBytes != known->backup.chunks ||
      listed == known->files.end() || sha256(*bytes) != listed->digest) {
    return fail(Code::kDataLoss, std::format("backup {}: its list of chunks is damaged", id));
  }
  std::vector<Digest> all(known->backup.chunks);
  for (std::size_t i = 0; i < all.size(); ++i)
    std::memcpy(all[i].bytes.data(), bytes->data() + i * kDigestBytes, kDigestBytes);
  return all;
}

Result<void> BackupFolder::begin(std::string_view id) const {
  if (auto made = make_folder(folder_); !made) return made;
  const auto left = ids(false);
  if (!left) return std::unexpected(left.error());
  for (const std::string& old : *left) {
    std::error_code error;
    fs::remove_all(path_of(old), error);
    if (error) return fail(Code::kInternal, std::format("backup {}: {}", old, error.message()));
  }
  return make_folder(path_of(id));
}

Result<BackupManifest> BackupFolder::finish(msg::Backup backup, const std::vector<Digest>& chunks) const {
  const fs::path own = path_of(backup.id);
  std::vector<std::byte> list(chunks.size() * kDigestBytes);
  for (std::size_t i = 0; i < chunks.size(); ++i)
    std::memcpy(list.data() + i * kDigestBytes, chunks[i].bytes.data(), kDigestBytes);
  if (auto written = write_synced(own / kChunkList, list, "the list of chunks"); !written)
    return std::unexpected(written.error());

  backup.chunks = chunks.size();
  BackupManifest manifest{.backup = std::move(backup), .files = {}};
  std::error_code error;
  for (auto entry = fs::recursive_directory_iterator(own, error); !error && entry != fs::end(entry);
       entry.increment(error)) {
    if (!entry->is_regular_file(error)) continue;
    const std::string name = entry->path().lexically_relative(own).string();
    auto digest = digest_of_file(entry->path(), "a file of the backup");
    if (!digest) return std::unexpected(std::move(digest).error());
    manifest.files.push_back({.name = name, .size_bytes = entry->file_size(error), .digest = *digest});
  }
  if (error) return fail(Code::kInternal, std::format("{}: {}", own.string(), error.message()));
  std::ranges::sort(manifest.files, {}, &BackupManifest::File::name);
  for (const auto& file : manifest.files) {
    manifest.backup.size_bytes += file.size_bytes;
    manifest.backup.copied_bytes += file.size_bytes;
  }
  manifest.backup.state = msg::BackupState::kSucceeded;
  const std::string text = manifest_text(manifest);
  if (auto written = replace_synced(own / kManifest, std::as_bytes(std::span(text)), "the backup's manifest"); !written)
    return std::unexpected(written.error());
  if (auto synced = sync_folder(folder_, folder_.string()); !synced) return std::unexpected(synced.error());
  return manifest;
}

Result<void> BackupFolder::remove(std::string_view id) const {
  if (!is_id(id)) return not_found(id);
  std::error_code error;
  // From here on it is not whole, whatever happens.
  if (!fs::remove(path_of(id) / kManifest, error)) {
    if (error) return fail(Code::kInternal, std::format("backup {}: {}", id, error.message()));
    return not_found(id);
  }
  if (auto synced = sync_folder(path_of(id), folder_.string()); !synced) return synced;
  fs::remove_all(path_of(id), error);
  if (error) return fail(Code::kInternal, std::format("backup {}: {}", id, error.message()));
  return sync_folder(folder_, folder_.string());
}

Result<std::uint64_t> BackupFolder::sweep() const {
  const auto there = ids(true);
  if (!there) return std::unexpected(there.error());
  DigestSet named;
  for (const std::string& id : *there) {
    const auto own = chunks(id);
    if (!own) return std::unexpected(own.error());
    named.insert(own->begin(), own->end());
  }
  auto store = ChunkStore::open(chunks_path(), 0);
  if (!store) return std::unexpected(std::move(store).error());
  return (*store)->sweep(named, fs::file_time_type::max());
}

Result<std::vector<msg::BackupFile>> BackupFolder::files(std::string_view id, std::uint64_t after,
                                                         std::size_t limit) const {
  const auto known = manifest(id);
  if (!known) return std::unexpected(known.error());
  const std::uint64_t own = known->files.size();
  const std::uint64_t all = own + known->backup.chunks + 1;
  std::vector<msg::BackupFile> page;
  std::vector<std::byte> digests;
  const std::uint64_t first_chunk = std::max(after, own) - own;
  if (first_chunk < known->backup.chunks) {
    auto read = read_at(path_of(id) / kChunkList, first_chunk * kDigestBytes, limit * kDigestBytes, "list of chunks");
    if (!read) return std::unexpected(std::move(read).error());
    digests = std::move(*read);
  }
  for (std::uint64_t i = after; i < all && page.size() < limit; ++i) {
    std::string name;
    if (i < own) {
      page.push_back(
          {.name = std::format("{}/{}", id, known->files[i].name), .size_bytes = known->files[i].size_bytes});
      continue;
    }
    if (i + 1 == all) {
      name = std::format("{}/{}", id, kManifest);
    } else {
      const std::size_t at = (i - own - first_chunk) * kDigestBytes;
      if (at + kDigestBytes > digests.size())
        return fail(Code::kDataLoss, std::format("backup {}: its list of chunks is damaged", id));
      Digest digest;
      std::memcpy(digest.bytes.data(), digests.data() + at, kDigestBytes);
      name = name_of(digest);
    }
    std::error_code error;
    const auto size = fs::file_size(folder_ / name, error);
    if (error) return fail(Code::kDataLoss, std::format("backup {}: {}: {}", id, name, error.message()));
    page.push_back({.name = std::move(name), .size_bytes = size});
  }
  return page;
}

Result<std::vector<std::byte>> BackupFolder::read(std::string_view id, std::string_view file,
                                                  std::uint64_t offset_bytes) const {
  const auto known = manifest(id);
  if (!known) return std::unexpected(known.error());
  const auto is_own = [&] {
    const std::string prefix = std::format("{}/", id);
    if (!file.starts_with(prefix)) return false;
    const std::string_view name = file.substr(prefix.size());
    return name == kManifest || std::ranges::contains(known->files, name, &BackupManifest::File::name);
  };
  const auto is_chunk = [&] {
    if (!file.starts_with(kChunkFolder)) return false;
    std::string hex(file.substr(kChunkFolder.size()));
    std::erase(hex, '/');
    const auto digest = digest_from_hex(hex);
    return digest && name_of(*digest) == file;
  };
  if (!is_own() && !is_chunk()) return fail(Code::kNotFound, std::format("backup {} has no file of that name", id));
  if (offset_bytes > std::uint64_t{1} << 60) return fail(Code::kInvalidArgument, "an offset beyond every file");
  return read_at(folder_ / file, offset_bytes, kChunkBytes, "such file of the backup");
}

}  // namespace slipway::registry
