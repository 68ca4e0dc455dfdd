#include "services/gateway/registry_upload.h"

#include <algorithm>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <deque>
#include <optional>
#include <random>

#include "services/gateway/metrics.h"

namespace slipway::gateway {
namespace {

constexpr std::chrono::seconds kPartDeadline{60};  // a slow disk, not a lost registry
constexpr std::chrono::milliseconds kLongestPause{2'000};

// Uploads that were refused together should not come back together.
std::chrono::milliseconds scattered(std::chrono::milliseconds about) {
  thread_local std::minstd_rand random{std::random_device{}()};
  return std::chrono::duration_cast<std::chrono::milliseconds>(
      about * std::uniform_real_distribution<double>(0.5, 1.5)(random));
}

}  // namespace

struct RegistryUpload::Part {
  msg::UploadPart head;
  Frame bytes;
  bool sent = false;
  bool taken = false;
};

// Touched on the coroutine's thread only; answers are posted there. The registry takes a file's parts in order and
// knows those it has taken, so after a refusal everything from the refused part on is sent again.
struct RegistryUpload::Window {
  using Timer =
      asio::basic_waitable_timer<std::chrono::steady_clock, asio::wait_traits<std::chrono::steady_clock>, Executor>;
  Window(const Executor& on, std::chrono::milliseconds first_pause)
      : executor(on), timer(on), shortest(first_pause), pause(first_pause) {}

  Executor executor;
  Timer timer;
  const std::chrono::milliseconds shortest;
  std::chrono::milliseconds pause;
  std::deque<std::shared_ptr<Part>> parts;  // up to the first one not taken, in order
  std::size_t unanswered = 0;
  std::size_t allowed = kWindow;                 // of those; halved by a refusal, one more with each part taken
  std::optional<Clock::time_point> stuck_since;  // the first refusal since the first of `parts` moved on
  std::optional<Error> refusal;                  // send again once all answers are in
  std::optional<Error> error;                    // for good

  void on_answer(Part& part, const Result<Message>& answer) {
    --unanswered;
    if (answer) {
      part.taken = true;
      allowed = std::min(allowed + 1, kWindow);
      if (parts.front()->taken) {
        stuck_since.reset();
        pause = shortest;
      }
      while (!parts.empty() && parts.front()->taken) parts.pop_front();
    } else if (const Error& why = answer.error();
               why.code == Code::kOverloaded || (why.code == Code::kUnavailable && why.retry_after.count() > 0)) {
      if (!refusal || refusal->retry_after < why.retry_after) refusal = why;
    } else if (why.code == Code::kInvalidArgument && !parts.empty() && parts.front().get() != &part) {
      // A gap, most likely: the part before it was refused. If it is more than that it is said again.
      if (!refusal) refusal = why;
    } else if (!error) {
      error = why;
    }
    timer.cancel();
  }

  // Until an answer comes, or for `time`.
  static Task<void> wait(std::shared_ptr<Window> self, std::chrono::milliseconds time) {
    self->timer.expires_after(time);
    boost::system::error_code ignored;
    co_await self->timer.async_wait(asio::redirect_error(kUseTask, ignored));
  }
};

RegistryUpload::RegistryUpload(RegistryClient& registry, Executor executor, std::string request_id,
                               UploadPatience patience, const MemoryShare& memory)
    : registry_(registry),
      request_id_(std::move(request_id)),
      patience_(patience),
      window_(std::make_shared<Window>(executor, patience.pause)),
      memory_(memory.another()) {
  metrics().uploads.Increment();
}

RegistryUpload::~RegistryUpload() {
  metrics().uploads.Decrement();
  if (id_.empty() || committed_) return;
  registry_.caller().call(msg::AbortUpload{.upload = id_}, {},
                          {.deadline = std::chrono::seconds(5), .repeat_after = {}, .request_id = request_id_},
                          [](const Result<Message>&) {});
}

std::chrono::milliseconds RegistryUpload::longer(std::chrono::milliseconds pause) {
  return std::min(2 * pause, std::max(pause, kLongestPause));
}

Task<void> RegistryUpload::sleep(std::chrono::milliseconds about) { co_await Window::wait(window_, scattered(about)); }

Task<Result<void>> RegistryUpload::open() {
  // Asked once each time: the registry would open another one for a repeat.
  auto opened = co_await patiently<msg::UploadOpened>(
      [this] { return registry_.ask<msg::UploadOpened>(msg::OpenUpload{}, request_id_, false); });
  if (!opened) co_return std::unexpected(opened.error());
  id_ = std::move(opened->upload);
  for (const auto& part : window_->parts) part->head.upload = id_;
  co_return Result<void>();
}

void RegistryUpload::begin_file(std::string name, bool decompress) {
  name_ = std::move(name);
  decompress_ = decompress;
  offset_ = 0;
  part_.clear();
}

Task<Result<void>> RegistryUpload::write(std::string_view bytes) {
  while (!bytes.empty()) {
    // A full part goes only when more follows: the last one must say so.
    if (part_.size() == kPartBytes) {
      if (auto sent = co_await add_part(false); !sent) co_return sent;
    }
    if (part_.capacity() < kPartBytes && part_.size() + bytes.size() > part_.capacity()) {
      part_.reserve(std::min(kPartBytes, std::max(2 * part_.capacity(), part_.size() + bytes.size())));
    }
    const std::string_view taken = bytes.substr(0, kPartBytes - part_.size());
    if (auto room = co_await hold(taken.size()); !room) co_return room;
    part_ += taken;
    bytes.remove_prefix(taken.size());
  }
  co_return Result<void>();
}

// While there is no memory, this upload goes on with fewer parts at once.
Task<Result<void>> RegistryUpload::hold(std::size_t bytes) {
  while (true) {
    std::uint64_t held = part_.size();
    for (const auto& part : window_->parts) held += part->bytes.size();
    memory_.keep(held);
    auto taken = memory_.take(bytes);
    if (taken || window_->parts.empty()) co_return taken;
    if (id_.empty()) {
      if (auto opened = co_await open(); !opened) co_return opened;
    }
    if (auto fewer = co_await settle(window_->parts.size()); !fewer) co_return fewer;
  }
}

Task<Result<void>> RegistryUpload::end_file() { co_return co_await add_part(true); }

Task<Result<void>> RegistryUpload::add_part(bool last) {
  auto part = std::make_shared<Part>(
      Part{.head = {.upload = id_, .file = name_, .offset_bytes = offset_, .last = last, .decompress = decompress_},
           .bytes = {}});
  offset_ += part_.size();
  part->bytes = Frame::of(std::exchange(part_, {}));
  window_->parts.push_back(part);
  if (id_.empty()) {
    unopened_bytes_ += part->bytes.size();
    if (unopened_bytes_ < kPartBytes && window_->parts.size() < kUnopened) co_return Result<void>();
    if (auto opened = co_await open(); !opened) co_return opened;
  }
  co_return co_await settle(kWindow);
}

// Returns once fewer than `below` parts are held, sending what there is to send, or with what is wrong for good.
Task<Result<void>> RegistryUpload::settle(std::size_t below) {
  Window& window = *window_;
  while (true) {
    if (window.error) {
      if (window.error->code == Code::kDeadlineExceeded)
        window.error = Error{.code = Code::kUnavailable, .message = "the registry does not answer", .path = {}};
      co_return std::unexpected(*window.error);
    }
    if (window.refusal && window.unanswered == 0) {
      const auto pause = std::max(window.pause, window.refusal->retry_after);
      const auto patience = window.refusal->code == Code::kUnavailable ? patience_.away : patience_.part;
      if (!window.stuck_since) window.stuck_since = Clock::now();
      if (Clock::now() + pause > *window.stuck_since + patience) {
        window.error = window.refusal;
        continue;
      }
      co_await sleep(pause);
      window.pause = longer(window.pause);
      window.allowed = std::max<std::size_t>(window.allowed / 2, 1);
      window.refusal.reset();
      for (const auto& part : window.parts) part->sent = part->taken;
    }
    if (!window.refusal) {
      pump();
      if (window.parts.size() < below) co_return Result<void>();
    }
    co_await Window::wait(window_, std::chrono::hours(1));
  }
}

// The parts of the next file wait until this one's have been taken: after a refusal files would come in disorder.
void RegistryUpload::pump() {
  for (const auto& part : window_->parts) {
    if (part->head.file != window_->parts.front()->head.file || window_->unanswered >= window_->allowed) return;
    if (!part->sent && !part->taken) send(part);
  }
}

void RegistryUpload::send(const std::shared_ptr<Part>& part) {
  part->sent = true;
  ++window_->unanswered;
  registry_.caller().call(
      part->head, {part->bytes}, {.deadline = kPartDeadline, .repeat_after = {}, .request_id = request_id_},
      [window = window_, part](Result<Message> answer) {
        asio::post(window->executor, [window, part, answer = std::move(answer)] { window->on_answer(*part, answer); });
      });
}

Task<Result<std::vector<StoredFile>>> RegistryUpload::files() {
  if (id_.empty()) {
    if (auto opened = co_await open(); !opened) co_return std::unexpected(opened.error());
  }
  if (auto settled = co_await settle(1); !settled) co_return std::unexpected(settled.error());
  auto stored = co_await patiently<msg::UploadedFiles>(
      [this] { return registry_.ask<msg::UploadedFiles>(msg::GetUpload{.upload = id_}, request_id_); });
  if (!stored) co_return std::unexpected(stored.error());
  co_return std::move(stored->files);
}

}  // namespace slipway::gateway
