#include "lib/wire/blob_transfer.h"

#include <algorithm>
#include <condition_variable>
#include <map>
#include <mutex>
#include <optional>
#include <thread>

#include "lib/base/sha256.h"

namespace slipway {
namespace {

using Clock = std::chrono::steady_clock;

// A chunk may wait long for its turn at the registry, which asking again does not hasten.
constexpr Caller::Options kRead{
    .deadline = std::chrono::seconds(60), .repeat_after = std::chrono::seconds(20), .request_id = {}};
constexpr Caller::Options kPart{.deadline = std::chrono::seconds(60), .repeat_after = {}, .request_id = {}};
constexpr std::chrono::milliseconds kLongestPause{2'000};

// A refusal that time mends. A Caller that is closed says kUnavailable too, but names no time.
bool not_now(const Error& error) {
  return error.code == Code::kOverloaded || (error.code == Code::kUnavailable && error.retry_after.count() > 0);
}

// Answers to numbered calls, taken by the thread that asked. Shared with the calls, which may outlive it.
class Answers {
 public:
  void put(std::size_t number, Result<Message> answer) {
    const std::lock_guard lock(mutex_);
    answers_.emplace(number, std::move(answer));
    changed_.notify_all();
  }
  std::pair<std::size_t, Result<Message>> take_any() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return !answers_.empty(); });
    auto node = answers_.extract(answers_.begin());
    return {node.key(), std::move(node.mapped())};
  }
  Result<Message> take(std::size_t number) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return answers_.contains(number); });
    return std::move(answers_.extract(number).mapped());
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::size_t, Result<Message>> answers_;
};

// Waits longer each time, and not for ever.
class Pauses {
 public:
  explicit Pauses(Patience patience) : patience_(patience), next_(patience.pause) {}

  void got_on() {
    since_ = Clock::now();
    next_ = patience_.pause;
  }
  // False, at once, when nothing has got on for too long.
  bool wait() {
    if (Clock::now() + next_ - since_ > patience_.give_up) return false;
    std::this_thread::sleep_for(next_);
    next_ = std::min(2 * next_, std::max(next_, kLongestPause));
    return true;
  }

 private:
  const Patience patience_;
  std::chrono::milliseconds next_;
  Clock::time_point since_ = Clock::now();
};

}  // namespace

Result<UploadId> open_upload(Caller& registry) {
  auto opened = Caller::as<msg::UploadOpened>(registry.call_and_wait(msg::OpenUpload{}, {}, kPart));
  return opened.transform([](const msg::UploadOpened& answer) { return answer.upload; });
}

// Go-back-N: the registry takes a file's parts in order and knows those it has taken, so after a refusal everything
// from the first part that was not taken on is sent again, once all answers are in.
Result<void> upload_file(Caller& registry, const UploadId& upload, const std::string& name,
                         std::span<const std::byte> bytes, Patience patience) {
  const auto answers = std::make_shared<Answers>();
  const std::size_t count = std::max<std::size_t>((bytes.size() + kUploadPartBytes - 1) / kUploadPartBytes, 1);
  std::vector<bool> taken(count, false);
  std::size_t first = 0;  // not taken yet
  std::size_t next = 0;   // to send
  std::size_t unanswered = 0;
  std::size_t window = kUploadWindow;  // halved by a refusal, one more with each part taken
  std::optional<Error> refusal;
  std::optional<Error> failed;
  Pauses pauses(patience);
  while (first < count || unanswered > 0) {
    if (refusal && unanswered == 0 && !failed) {
      if (!pauses.wait()) return std::unexpected(*refusal);
      refusal.reset();
      window = std::max<std::size_t>(window / 2, 1);
      next = first;
    }
    while (!refusal && !failed && unanswered < window && next < count) {
      const std::size_t offset = next * kUploadPartBytes;
      const std::size_t size = std::min(kUploadPartBytes, bytes.size() - offset);
      std::vector<Frame> payload;
      payload.push_back(Frame::copy(bytes.subspan(offset, size)));
      registry.call(
          msg::UploadPart{
              .upload = upload, .file = name, .offset_bytes = offset, .last = next + 1 == count, .decompress = false},
          std::move(payload), kPart,
          [answers, number = next](Result<Message> answer) { answers->put(number, std::move(answer)); });
      ++unanswered;
      ++next;
    }
    if (unanswered == 0) break;
    const auto [number, answer] = answers->take_any();
    --unanswered;
    if (answer) {
      taken[number] = true;
      window = std::min(window + 1, kUploadWindow);
      if (number == first) pauses.got_on();
      while (first < count && taken[first]) ++first;
    } else if (not_now(answer.error())) {
      refusal = answer.error();
    } else if (answer.error().code == Code::kInvalidArgument && number > first) {
      // A gap, most likely: the part before it was refused. If it is more than that, it is said again.
      if (!refusal) refusal = answer.error();
    } else if (!failed) {
      failed = answer.error();
    }
  }
  if (failed) return std::unexpected(*failed);
  return {};
}

void abort_upload(Caller& registry, const UploadId& upload) {
  registry.call(msg::AbortUpload{.upload = upload}, {},
                {.deadline = std::chrono::seconds(5), .repeat_after = std::chrono::seconds(1), .request_id = {}},
                [](const Result<Message>&) {});
}

Result<void> download_to(Caller& registry, const StoredFile& file, const TakeBytes& take, Patience patience) {
  const auto answers = std::make_shared<Answers>();
  const auto ask = [&](std::size_t number) {
    registry.call(msg::GetChunk{file.chunks[number]}, {}, kRead,
                  [answers, number](Result<Message> answer) { answers->put(number, std::move(answer)); });
  };
  Pauses pauses(patience);
  Sha256 whole;
  std::uint64_t size = 0;
  std::size_t asked = 0;
  for (std::size_t number = 0; number < file.chunks.size(); ++number) {
    while (asked < std::min(number + kDownloadWindow, file.chunks.size())) ask(asked++);
    auto answer = answers->take(number);
    while (!answer && not_now(answer.error()) && pauses.wait()) {
      ask(number);
      answer = answers->take(number);
    }
    if (!answer) return std::unexpected(std::move(answer).error());
    pauses.got_on();
    if (answer->payload.size() != 1) {
      return fail(Code::kDataLoss,
                  std::format("chunk {} came as {} frames", to_hex(file.chunks[number]), answer->payload.size()));
    }
    const auto bytes = answer->payload.front().bytes();
    size += bytes.size();
    if (size > file.size_bytes) break;
    whole.update(bytes);
    if (auto taken = take(bytes); !taken) return taken;
  }
  if (size != file.size_bytes || whole.finish() != file.digest) {
    return fail(Code::kDataLoss, std::format("file {} of {} bytes is not what its record says", file.name, size));
  }
  return {};
}

Result<std::vector<std::byte>> download(Caller& registry, const StoredFile& file, Patience patience) {
  std::vector<std::byte> bytes;
  auto done = download_to(
      registry, file,
      [&](std::span<const std::byte> piece) -> Result<void> {
        bytes.insert(bytes.end(), piece.begin(), piece.end());
        return {};
      },
      patience);
  if (!done) return std::unexpected(done.error());
  return bytes;
}

}  // namespace slipway
