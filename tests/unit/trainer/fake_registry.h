// A registry in this process for one job: keeps uploads, checkpoints and what it is told as the real one does, and
// misbehaves on request.
#pragma once

#include <gtest/gtest.h>

#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "lib/base/sha256.h"
#include "lib/wire/bus.h"

namespace slipway::trainer {

class FakeRegistry {
 public:
  FakeRegistry() {
    auto bound = bus.bind_router("127.0.0.1:0", [this](Incoming incoming) { on_message(std::move(incoming)); });
    EXPECT_TRUE(bound);
    socket_ = *bound;
  }
  ~FakeRegistry() { bus.stop(); }

  [[nodiscard]] std::string address() const { return "127.0.0.1:" + std::to_string(bus.port(socket_)); }

  StoredFile store(const std::string& name, const std::string& bytes) {
    const std::lock_guard lock(mutex);
    const Digest digest = sha256(bytes);
    chunks_[digest] = bytes;
    return {name, bytes.size(), digest, bytes.empty() ? std::vector<Digest>{} : std::vector{digest}};
  }

  // Set before the attempt starts, or under `mutex`.
  std::mutex mutex;
  Dataset dataset;
  bool cancel = false;          // ordered in the answers to reports
  bool refuse_reports = false;  // kConflict
  bool refuse_checkpoints = false;
  int refuse_parts = 0;                 // so many, with kUnavailable
  int unready_for_checkpoints = 0;      // so many commits get kUnavailable
  int deaf_to_publishes = 0;            // so many are not answered
  int restarts_at_publishes = 0;        // so often all uploads are forgotten before one is looked at
  int deaf_to_reports = 0;              // so many with events are taken and not answered
  int deaf_to_claims = 0;               // so many are not answered
  std::function<void()> on_checkpoint;  // on the bus thread, after a commit

  std::deque<msg::RunJob> waiting;    // jobs for those who claim
  std::vector<msg::ClaimJob> claims;  // as they came
  std::vector<JobEvent> events;       // as the job's history has them
  std::vector<msg::ReportJob> reports;
  std::vector<Lease> leases;      // under which something was asked
  std::set<std::string> secrets;  // shown with the questions
  int opened = 0;                 // uploads, since the start
  int chunks_read = 0;
  std::vector<StoredFile> checkpoint;
  int checkpoints = 0;
  std::vector<msg::Publish> published;
  std::string module;
  std::vector<msg::EndAttempt> ended;
  Bus bus;

  // Uploads that hold a place.
  std::size_t open_uploads() {
    const std::lock_guard lock(mutex);
    return uploads_.size();
  }

 private:
  void answer(const Incoming& to, msg::Body body, std::vector<Frame> payload = {}) {
    Message message;
    message.envelope.correlation = to.message.envelope.correlation;
    message.envelope.body = std::move(body);
    message.payload = std::move(payload);
    bus.send(to.socket, to.peer, std::move(message));
  }
  void refuse(const Incoming& to, Code code) {
    msg::Error error;
    error.code = static_cast<std::uint8_t>(code);
    error.message = "refused";
    answer(to, error);
  }

  void on_message(Incoming in) {
    std::function<void()> then;
    {
      const std::lock_guard lock(mutex);
      secrets.insert(in.message.envelope.secret);
      std::visit([&](const auto& body) { then = on(in, body); }, in.message.envelope.body);
    }
    if (then) then();
  }

  using Then = std::function<void()>;
  template <class T>
  Then on(const Incoming& in, const T&) {
    refuse(in, Code::kUnsupported);
    return {};
  }
  Then on(const Incoming& in, const msg::OpenUpload&) {
    const UploadId id("u" + std::to_string(++opened));
    uploads_[id];
    answer(in, msg::UploadOpened{id});
    return {};
  }
  Then on(const Incoming& in, const msg::AbortUpload& abort) {
    uploads_.erase(abort.upload);
    answer(in, msg::Ok{});
    return {};
  }
  Then on(const Incoming& in, const msg::UploadPart& part) {
    if (refuse_parts > 0) {
      --refuse_parts;
      refuse(in, Code::kUnavailable);
      return {};
    }
    auto& file = uploads_[part.upload][part.file];
    EXPECT_EQ(file.size(), part.offset_bytes);
    file += in.message.payload.at(0).text();
    answer(in, msg::Ok{});
    return {};
  }
  Then on(const Incoming& in, const msg::GetChunk& chunk) {
    ++chunks_read;
    answer(in, msg::Ok{}, {Frame::copy(chunks_.at(chunk.digest))});
    return {};
  }
  Then on(const Incoming& in, const msg::GetDataset& wanted) {
    if (wanted.name != dataset.name) {
      refuse(in, Code::kNotFound);
    } else {
      answer(in, msg::Datasets{{dataset}});
    }
    return {};
  }
  Then on(const Incoming& in, const msg::ReportJob& report) {
    if (refuse_reports) {
      refuse(in, Code::kConflict);
      return {};
    }
    leases.push_back(report.lease);
    reports.push_back(report);
    EXPECT_EQ(report.number == 0, report.events.empty());
    auto& told = told_[report.lease.epoch];
    EXPECT_LE(report.number, told + 1) << "numbers are dense";
    if (report.number == told + 1) {
      ++told;
      for (const auto& event : report.events) {
        EXPECT_TRUE(event.kind == "progress" || event.kind == "epoch" || event.kind == "warning") << event.kind;
        events.push_back(event);
      }
    }
    if (!report.events.empty() && deaf_to_reports-- > 0) return {};
    answer(in, msg::JobOrders{cancel, report.lease.duration_ms});
    return {};
  }
  Then on(const Incoming& in, const msg::CommitCheckpoint& commit) {
    if (refuse_checkpoints) {
      refuse(in, Code::kConflict);
      return {};
    }
    leases.push_back(commit.lease);
    if (unready_for_checkpoints > 0) {
      --unready_for_checkpoints;
      refuse(in, Code::kUnavailable);
      return {};
    }
    if (commit.upload == committed_) {
      answer(in, msg::Ok{});
      return {};
    }
    checkpoint.clear();
    for (const auto& [name, bytes] : uploads_.at(commit.upload)) {
      const Digest digest = sha256(bytes);
      chunks_[digest] = bytes;
      checkpoint.push_back({name, bytes.size(), digest, {digest}});
    }
    committed_ = commit.upload;
    uploads_.erase(commit.upload);
    ++checkpoints;
    JobEvent told;
    told.kind = "checkpoint";
    told.message = "checkpoint " + std::to_string(checkpoints);
    events.push_back(std::move(told));
    answer(in, msg::Ok{});
    return on_checkpoint;
  }
  Then on(const Incoming& in, const msg::GetCheckpoint& get) {
    msg::Checkpoints found;
    if (!checkpoint.empty()) {
      Checkpoint record;
      record.job = get.job;
      record.number = 1;
      record.files = checkpoint;
      found.items.push_back(record);
    }
    answer(in, found);
    return {};
  }
  Then on(const Incoming& in, const msg::Publish& publish) {
    leases.push_back(publish.lease);
    if (restarts_at_publishes-- > 0) uploads_.clear();
    if (!uploads_.contains(publish.upload)) {
      refuse(in, Code::kUnavailable);
      return {};
    }
    if (deaf_to_publishes-- > 0) return {};
    published.push_back(publish);
    module = uploads_[publish.upload]["model.pt"];
    uploads_.erase(publish.upload);
    Version version;
    version.number = 1;
    answer(in, msg::Versions{{version}});
    return {};
  }
  Then on(const Incoming& in, const msg::ClaimJob& claim) {
    claims.push_back(claim);
    const bool again = claim.number == claimed_number_;
    if (!again) {
      claimed_number_ = claim.number;
      claimed_.reset();
      if (!waiting.empty()) {
        claimed_ = std::move(waiting.front());
        claimed_->lease.holder = claim.worker;
        waiting.pop_front();
      }
    }
    if (deaf_to_claims-- > 0) return {};
    if (claimed_) {
      answer(in, *claimed_);
    } else {
      refuse(in, Code::kNotFound);
    }
    return {};
  }
  Then on(const Incoming& in, const msg::EndAttempt& end) {
    leases.push_back(end.lease);
    ended.push_back(end);
    answer(in, msg::Ok{});
    return {};
  }

  SocketId socket_{};
  std::map<std::uint64_t, std::uint64_t> told_;  // number of the last report taken, by the lease's epoch
  UploadId committed_;                           // by the last checkpoint
  std::uint64_t claimed_number_ = 0;
  std::optional<msg::RunJob> claimed_;  // by the last claim
  std::map<UploadId, std::map<std::string, std::string>> uploads_;
  std::map<Digest, std::string> chunks_;
};

}  // namespace slipway::trainer
