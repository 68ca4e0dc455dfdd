#include "services/gateway/registry_upload.h"

#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <optional>

#include "services/gateway/metrics.h"

namespace slipway::gateway {
namespace {

constexpr std::chrono::seconds kPartDeadline{60};  // a slow disk, not a lost registry

}  // namespace

// Touched on the coroutine's thread only; answers are posted there.
struct RegistryUpload::Window {
  using Timer =
      asio::basic_waitable_timer<std::chrono::steady_clock, asio::wait_traits<std::chrono::steady_clock>, Executor>;
  explicit Window(const Executor& on) : executor(on), timer(on) {}
  Executor executor;
  Timer timer;
  int in_flight = 0;
  std::optional<Error> error;

  // Returns once fewer than `limit` parts are under way, or one has failed.
  static Task<void> below(std::shared_ptr<Window> self, int limit) {
    while (self->in_flight >= limit && !self->error) {
      self->timer.expires_after(std::chrono::hours(1));
      boost::system::error_code ignored;
      co_await self->timer.async_wait(asio::redirect_error(kUseTask, ignored));
    }
  }
};

RegistryUpload::RegistryUpload(RegistryClient& registry, Executor executor, std::string request_id)
    : registry_(registry), request_id_(std::move(request_id)), window_(std::make_shared<Window>(executor)) {
  metrics().uploads.Increment();
}

RegistryUpload::~RegistryUpload() { metrics().uploads.Decrement(); }

Task<Result<void>> RegistryUpload::open() {
  auto opened = co_await registry_.ask<msg::UploadOpened>(msg::OpenUpload{}, request_id_);
  if (!opened) co_return std::unexpected(opened.error());
  id_ = std::move(opened->upload);
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
      if (auto sent = co_await send_part(false); !sent) co_return sent;
    }
    if (part_.capacity() < kPartBytes) part_.reserve(kPartBytes);
    const std::string_view taken = bytes.substr(0, kPartBytes - part_.size());
    part_ += taken;
    bytes.remove_prefix(taken.size());
  }
  co_return Result<void>();
}

Task<Result<void>> RegistryUpload::end_file() { co_return co_await send_part(true); }

Task<Result<void>> RegistryUpload::send_part(bool last) {
  co_await Window::below(window_, kWindow);
  if (window_->error) co_return std::unexpected(*window_->error);
  msg::UploadPart part{.upload = id_, .file = name_, .offset_bytes = offset_, .last = last, .decompress = decompress_};
  offset_ += part_.size();
  std::vector<Frame> payload;
  payload.push_back(Frame::of(std::move(part_)));
  part_ = std::string();
  ++window_->in_flight;
  registry_.caller().call(std::move(part), std::move(payload),
                          {.deadline = kPartDeadline, .repeat_after = {}, .request_id = request_id_},
                          [window = window_](Result<Message> answer) {
                            asio::post(window->executor, [window, answer = std::move(answer)] {
                              --window->in_flight;
                              if (!answer && !window->error) window->error = answer.error();
                              window->timer.cancel();
                            });
                          });
  co_return Result<void>();
}

Task<Result<std::vector<StoredFile>>> RegistryUpload::files() {
  co_await Window::below(window_, 1);
  if (window_->error) {
    if (window_->error->code == Code::kDeadlineExceeded)
      co_return fail(Code::kUnavailable, "the registry does not answer");
    co_return std::unexpected(*window_->error);
  }
  auto stored = co_await registry_.ask<msg::UploadedFiles>(msg::GetUpload{.upload = id_}, request_id_);
  if (!stored) co_return std::unexpected(stored.error());
  co_return std::move(stored->files);
}

void RegistryUpload::abort() {
  if (id_.empty()) return;
  registry_.caller().call(msg::AbortUpload{.upload = id_}, {},
                          {.deadline = std::chrono::seconds(5), .repeat_after = {}, .request_id = request_id_},
                          [](const Result<Message>&) {});
}

}  // namespace slipway::gateway
