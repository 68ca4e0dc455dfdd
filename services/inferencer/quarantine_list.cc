#include "services/inferencer/quarantine_list.h"

#include <spdlog/spdlog.h>

#include <utility>
#include <vector>

#include "lib/base/log.h"
#include "lib/wire/page.h"
#include "services/inferencer/quarantine.h"

namespace slipway::inferencer {
namespace {

constexpr std::uint32_t kPage = 100;

Caller::Options within(std::chrono::milliseconds deadline) {
  return {.deadline = deadline, .repeat_after = std::chrono::seconds(1), .request_id = {}};
}

}  // namespace

QuarantineList::QuarantineList(Caller& registry, std::filesystem::path folder)
    : registry_(registry), folder_(std::move(folder)) {
  for (Quarantine& mark : read_marks(folder_)) {
    spdlog::warn("file quarantined digest={} model={} version={} reason={}", to_hex(mark.digest), log_value(mark.model),
                 mark.version, log_value(mark.reason));
    const Digest digest = mark.digest;
    untold_.emplace(digest, std::move(mark));
  }
}

std::optional<std::string> QuarantineList::reason(const Digest& digest) const {
  const std::lock_guard lock(mutex_);
  if (const auto found = untold_.find(digest); found != untold_.end()) return found->second.reason;
  if (const auto found = told_.find(digest); found != told_.end()) return found->second;
  return std::nullopt;
}

void QuarantineList::acknowledged(const Digest& digest) {
  remove_marks(folder_, digest);
  const std::lock_guard lock(mutex_);
  const auto node = untold_.extract(digest);
  if (!node.empty()) told_[digest] = node.mapped().reason;
}

void QuarantineList::forget(const Digest& digest) {
  remove_marks(folder_, digest);
  const std::lock_guard lock(mutex_);
  untold_.erase(digest);
}

Result<void> QuarantineList::refresh() {
  std::vector<Quarantine> waiting;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [digest, quarantine] : untold_) waiting.push_back(quarantine);
  }
  for (const Quarantine& quarantine : waiting) {
    const auto tell = [&](Quarantine what) {
      return Caller::as<msg::Ok>(registry_.call_and_wait(msg::QuarantineFile{.quarantine = std::move(what)}, {},
                                                         within(std::chrono::seconds(2))));
    };
    auto done = tell(quarantine);
    // By its digest alone, when the rest of what a mark says is of no use.
    if (!done && done.error().code == Code::kInvalidArgument)
      done = tell({.digest = quarantine.digest, .model = {}, .version = 0, .reason = {}, .at_ms = 0});
    if (done) {
      acknowledged(quarantine.digest);
      continue;
    }
    const Code code = done.error().code;
    if (code == Code::kUnsupported) continue;
    spdlog::warn("quarantine not taken digest={} code={} message={}", to_hex(quarantine.digest), code_name(code),
                 log_value(done.error().message));
    if (code == Code::kInvalidArgument) {
      forget(quarantine.digest);
    } else if (code == Code::kUnavailable || code == Code::kDeadlineExceeded) {
      break;  // the next one would wait as long
    }
  }

  std::map<Digest, std::string> found;
  msg::ListQuarantines question{.after = {}, .limit = kPage};
  while (true) {
    auto page = Caller::as<msg::Quarantines>(registry_.call_and_wait(question, {}, within(std::chrono::seconds(2))));
    if (!page && page.error().code == Code::kUnsupported) return {};
    if (!page) return std::unexpected(std::move(page).error());
    for (const Quarantine& quarantine : page->items) found[quarantine.digest] = quarantine.reason;
    if (page->items.empty() || !may_have_next(page->items, kPage)) break;
    question.after = page->items.back().digest;
  }
  const std::lock_guard lock(mutex_);
  told_ = std::move(found);
  return {};
}

void QuarantineList::report(Quarantine quarantine, std::chrono::milliseconds wait, std::function<void()> told) {
  if (auto left = leave_mark(folder_, quarantine); !left)
    spdlog::error("quarantine not kept reason={}", log_value(left.error().message));
  const Digest digest = quarantine.digest;
  {
    const std::lock_guard lock(mutex_);
    untold_[digest] = quarantine;
  }
  registry_.call(msg::QuarantineFile{.quarantine = std::move(quarantine)}, {}, within(wait),
                 [this, digest, told = std::move(told)](Result<Message> answer) {
                   if (Caller::as<msg::Ok>(std::move(answer))) acknowledged(digest);
                   told();
                 });
}

}  // namespace slipway::inferencer
