#include "services/registry/quarantine_book.h"

#include <algorithm>
#include <format>

#include "lib/base/sha256.h"
#include "lib/wire/page.h"
#include "services/registry/catalog.h"
#include "services/registry/names.h"

namespace slipway::registry {
namespace {

constexpr std::string_view kPrefix = "quarantine";  // in the meta family, so that earlier releases still start
constexpr std::string_view kUnreadable = "its quarantine cannot be read";

std::string key_of(const Digest& digest) { return first_key(kPrefix) + to_hex(digest); }

bool is_module(const StoredFile& file) { return file.name.ends_with(".pt"); }

}  // namespace

Result<bool> QuarantineBook::put(Quarantine quarantine, std::int64_t now_ms) {
  if (quarantine.digest.empty()) return fail(Code::kInvalidArgument, "a quarantine without the digest of a file");
  // It may be known by its digest alone, after a crash that left no more.
  if (!quarantine.model.empty()) {
    if (auto named = check_name("model", quarantine.model); !named) return std::unexpected(named.error());
  }
  const std::string key = key_of(quarantine.digest);
  auto there = store_.get(Family::kMeta, key);
  if (!there) return std::unexpected(std::move(there).error());
  if (*there) return false;

  quarantine.reason = plain_text(quarantine.reason, kMaxReasonBytes);
  if (quarantine.reason.empty()) quarantine.reason = "no reason was given";
  quarantine.at_ms = now_ms;
  Batch batch;
  batch.put_record(Family::kMeta, key, quarantine);
  batch.tell({.subject = msg::Subject::kQuarantine, .key = to_hex(quarantine.digest)});
  if (!quarantine.model.empty()) batch.tell({.subject = msg::Subject::kModel, .key = quarantine.model});
  if (auto done = store_.commit(std::move(batch)); !done) return std::unexpected(std::move(done).error());
  return true;
}

Result<std::vector<Quarantine>> QuarantineBook::list(const msg::ListQuarantines& question) const {
  PageMeter page(page_size(question.limit));
  const std::string from = question.after.empty() ? first_key(kPrefix) : key_of(question.after) + '\0';
  std::vector<Quarantine> found;
  auto scanned = store_.scan(Family::kMeta, from, end_key(kPrefix),
                             [&](std::string_view key, std::string_view value) -> Result<bool> {
                               auto record = store_.read<Quarantine>(Family::kMeta, key, value);
                               // It holds all the same, and its key says for which file.
                               if (!record) {
                                 record = Quarantine{.digest = {}, .model = {}, .reason = std::string(kUnreadable)};
                                 const auto digest = digest_from_hex(key.substr(first_key(kPrefix).size()));
                                 if (!digest) return true;
                                 record->digest = *digest;
                               }
                               found.push_back(std::move(*record));
                               return page.count(found.back());
                             });
  if (!scanned) return std::unexpected(std::move(scanned).error());
  return found;
}

Result<std::optional<std::string>> QuarantineBook::reason(const Digest& digest) const {
  auto record = store_.get_record<Quarantine>(Family::kMeta, key_of(digest));
  if (!record && record.error().code == Code::kDataLoss) return std::string(kUnreadable);
  if (!record) return std::unexpected(std::move(record).error());
  if (!*record) return std::nullopt;
  return std::move((*record)->reason);
}

Result<void> QuarantineBook::fill(Version& version) const {
  for (const StoredFile& file : version.files) {
    if (!is_module(file)) continue;
    auto why = reason(file.digest);
    if (!why) return std::unexpected(std::move(why).error());
    if (*why) version.quarantined = std::move(**why);
  }
  return {};
}

Result<void> QuarantineBook::lift(Version& version) {
  Batch batch;
  for (const StoredFile& file : version.files) {
    if (!is_module(file)) continue;
    const std::string key = key_of(file.digest);
    auto record = store_.get_record<Quarantine>(Family::kMeta, key);
    if (!record && record.error().code != Code::kDataLoss) return std::unexpected(std::move(record).error());
    if (record && !*record) continue;
    batch.erase(Family::kMeta, key);
    batch.tell({.subject = msg::Subject::kQuarantine, .key = to_hex(file.digest)});
    if (record && !(*record)->model.empty() && (*record)->model != version.model) {
      batch.tell({.subject = msg::Subject::kModel, .key = (*record)->model});
    }
  }
  if (batch.empty()) {
    return fail(Code::kNotFound, std::format("version {} of '{}' is not quarantined", version.number, version.model));
  }
  batch.tell({.subject = msg::Subject::kModel, .key = version.model});
  if (auto done = store_.commit(std::move(batch)); !done) return done;
  version.quarantined.clear();
  return {};
}

}  // namespace slipway::registry
