#include "services/registry/repeat_marks.h"

#include <charconv>
#include <format>
#include <string_view>

#include "lib/base/sha256.h"
#include "services/registry/names.h"

namespace slipway::registry {
namespace {

constexpr std::string_view kSubmitted = "submitted";      // "submitted/<hash of the actor>/<key>": "job digest time"
constexpr std::string_view kIdempotency = "idempotency";  // of earlier releases, "idempotency/<key>": "job"
constexpr std::string_view kUploaded = "uploaded";        // "uploaded/<upload>": "model version time"
constexpr std::string_view kPublished =
    "published";  // "published/<hash of the actor>/<key>": "model version time digest"

// The hash bounds the key, whatever an actor is called.
std::string actors_key(std::string_view prefix, const std::string& actor, const std::string& key) {
  return std::format("{}/{}/{}", prefix, to_hex(sha256(actor)), key);
}

// The words of a mark; those that are not there are empty.
struct Words {
  std::string_view first, second, third, fourth;
  explicit Words(std::string_view text) {
    for (std::string_view* word : {&first, &second, &third, &fourth}) {
      const auto end = text.find(' ');
      *word = text.substr(0, end);
      text = end == std::string_view::npos ? std::string_view() : text.substr(end + 1);
    }
  }
};

std::int64_t whole(std::string_view digits) {
  std::int64_t number = 0;
  std::from_chars(digits.data(), digits.data() + digits.size(), number);
  return number;
}

bool is_old(std::int64_t made_ms, std::int64_t now_ms) { return now_ms - made_ms >= RepeatMarks::kMaxAgeMs; }

}  // namespace

Result<std::optional<RepeatMarks::Submission>> RepeatMarks::submission(const std::string& actor, const std::string& key,
                                                                       std::int64_t now_ms) const {
  auto mark = store_.get(Family::kMeta, actors_key(kSubmitted, actor, key));
  if (!mark) return std::unexpected(std::move(mark).error());
  if (*mark) {
    const Words words(**mark);
    const auto document = digest_from_hex(words.second);
    if (!is_old(whole(words.third), now_ms) && document) {
      return Submission{.job = static_cast<std::uint64_t>(whole(words.first)), .document = *document};
    }
    return std::nullopt;
  }
  auto earlier = store_.get(Family::kMeta, std::format("{}/{}", kIdempotency, key));
  if (!earlier) return std::unexpected(std::move(earlier).error());
  if (!*earlier) return std::nullopt;
  return Submission{.job = number_of(**earlier), .document = {}};
}

void RepeatMarks::put_submission(Batch& batch, const std::string& actor, const std::string& key, std::uint64_t job,
                                 const Digest& document, std::int64_t now_ms) {
  batch.put(Family::kMeta, actors_key(kSubmitted, actor, key), std::format("{} {} {}", job, to_hex(document), now_ms));
}

Result<std::optional<RepeatMarks::Publication>> RepeatMarks::publication(const std::string& actor,
                                                                         const std::string& key,
                                                                         std::int64_t now_ms) const {
  auto mark = store_.get(Family::kMeta, actors_key(kPublished, actor, key));
  if (!mark) return std::unexpected(std::move(mark).error());
  if (!*mark) return std::nullopt;
  const Words words(**mark);
  const auto document = digest_from_hex(words.fourth);
  if (is_old(whole(words.third), now_ms) || !document) return std::nullopt;
  return Publication{
      .made = {.model = std::string(words.first), .version = static_cast<std::uint64_t>(whole(words.second))},
      .document = *document};
}

void RepeatMarks::put_publication(Batch& batch, const std::string& actor, const std::string& key,
                                  const Publication& publication, std::int64_t now_ms) {
  const auto& [made, document] = publication;
  batch.put(Family::kMeta, actors_key(kPublished, actor, key),
            std::format("{} {} {} {}", made.model, made.version, now_ms, to_hex(document)));
}

Result<std::optional<RepeatMarks::VersionMade>> RepeatMarks::version_made(const UploadId& upload) const {
  if (upload.empty()) return std::nullopt;
  auto mark = store_.get(Family::kMeta, std::format("{}/{}", kUploaded, upload.text()));
  if (!mark) return std::unexpected(std::move(mark).error());
  if (!*mark) return std::nullopt;
  const Words words(**mark);
  return VersionMade{.model = std::string(words.first), .version = static_cast<std::uint64_t>(whole(words.second))};
}

void RepeatMarks::put_version_made(Batch& batch, const UploadId& upload, const VersionMade& made, std::int64_t now_ms) {
  if (upload.empty()) return;
  batch.put(Family::kMeta, std::format("{}/{}", kUploaded, upload.text()),
            std::format("{} {} {}", made.model, made.version, now_ms));
}

Result<bool> RepeatMarks::purge(Batch& batch, std::int64_t now_ms, std::size_t limit) const {
  std::size_t erased = 0;
  const auto erase_old = [&](std::string_view prefix, auto made_ms) {
    return store_.scan(Family::kMeta, first_key(prefix), end_key(prefix),
                       [&](std::string_view key, std::string_view value) -> Result<bool> {
                         if (erased == limit) return false;
                         if (!is_old(made_ms(value), now_ms)) return true;
                         batch.erase(Family::kMeta, std::string(key));
                         ++erased;
                         return true;
                       });
  };
  const auto third = [](std::string_view value) { return whole(Words(value).third); };
  // Marks of an earlier release are as old as their job; they stay for as long as that is not known.
  const auto job_made = [&](std::string_view value) {
    const auto job = store_.get_record<Job>(Family::kJobs, number_key(number_of(value)));
    return job && *job ? (*job)->created_ms : now_ms;
  };
  auto done = erase_old(kSubmitted, third);
  if (done) done = erase_old(kUploaded, third);
  if (done) done = erase_old(kPublished, third);
  if (done) done = erase_old(kIdempotency, job_made);
  return done.transform([&] { return erased == limit; });
}

}  // namespace slipway::registry
