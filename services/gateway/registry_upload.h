// One upload to the registry, written while its bytes arrive: a bounded window of parts, whatever the size. What the
// registry refuses for want of room is sent again.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "schema/limits.h"
#include "services/gateway/memory_budget.h"
#include "services/gateway/registry_client.h"

namespace slipway::gateway {

// How long room at the registry is waited for.
struct UploadPatience {
  std::chrono::milliseconds place{30'000};  // for one of its uploads, and for its answer to a commit
  std::chrono::milliseconds part{60'000};   // for room for a part, without one of them being taken
  std::chrono::milliseconds away{1'500};    // the same while it says that it stops, or cannot store anything
  std::chrono::milliseconds pause{100};     // before the first repeat; doubled up to 2 s
};

// Life: a coroutine's local. The registry is told to forget it at destruction unless it was committed.
// Threads: the coroutine's.
class RegistryUpload {
 public:
  static constexpr std::size_t kPartBytes = kUploadPartBytes;
  static constexpr std::size_t kWindow = 8;     // parts held until the registry has taken them
  static constexpr std::size_t kUnopened = 64;  // parts, of kPartBytes in all, held before it is opened

  // What it holds counts in the budget of `memory`, which must outlive it.
  RegistryUpload(RegistryClient& registry, Executor executor, std::string request_id, UploadPatience patience = {},
                 const MemoryShare& memory = {});
  ~RegistryUpload();
  RegistryUpload(const RegistryUpload&) = delete;
  RegistryUpload& operator=(const RegistryUpload&) = delete;

  // Begins a file; the one before must have ended. `decompress`: gunzip while storing.
  void begin_file(std::string name, bool decompress);

  // A place at the registry is taken with the first kPartBytes or at files(), whichever comes first.
  // Errors of these: kOverloaded (no place or no room in all the time of UploadPatience, or no memory here for a single
  // part), kTooLarge (a part is more than all may hold here), kUnavailable (no answer), and what the registry says of
  // an earlier part.
  Task<Result<void>> write(std::string_view bytes);
  Task<Result<void>> end_file();

  // The files as stored, once all are acknowledged.
  Task<Result<std::vector<StoredFile>>> files();

  // After files(): asks the registry to make something of them. Errors: as RegistryClient::ask_long().
  template <class Answer, class Question>
  Task<Result<Answer>> commit(Question question) {
    question.upload = id_;
    auto answer = co_await patiently<Answer>(
        [this, question = std::move(question)] { return registry_.ask_long<Answer>(question, request_id_); });
    committed_ = answer.has_value();
    co_return answer;
  }

 private:
  using Clock = std::chrono::steady_clock;
  struct Part;
  struct Window;

  // Repeats `ask` while the answer is kOverloaded, for patience_.place.
  template <class Answer, class Ask>
  Task<Result<Answer>> patiently(Ask ask) {
    const auto give_up = Clock::now() + patience_.place;
    auto pause = patience_.pause;
    while (true) {
      Result<Answer> answer = co_await ask();
      if (answer || answer.error().code != Code::kOverloaded) co_return answer;
      pause = std::max(pause, answer.error().retry_after);
      if (Clock::now() + pause > give_up) co_return answer;
      co_await sleep(pause);
      pause = longer(pause);
    }
  }

  [[nodiscard]] static std::chrono::milliseconds longer(std::chrono::milliseconds pause);
  Task<void> sleep(std::chrono::milliseconds about);
  Task<Result<void>> open();
  Task<Result<void>> add_part(bool last);
  Task<Result<void>> hold(std::size_t bytes);
  Task<Result<void>> settle(std::size_t below);
  void pump();
  void send(const std::shared_ptr<Part>& part);

  RegistryClient& registry_;
  const std::string request_id_;
  const UploadPatience patience_;
  UploadId id_;
  bool committed_ = false;
  std::string name_;
  bool decompress_ = false;
  std::uint64_t offset_ = 0;
  std::string part_;
  std::size_t unopened_bytes_ = 0;
  std::shared_ptr<Window> window_;
  MemoryShare memory_;  // of part_ and the window's parts
};

}  // namespace slipway::gateway
