// As much of a registry as transfers of files need, in memory, with the refusals that tests want.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <condition_variable>
#include <filesystem>
#include <map>
#include <mutex>

#include "lib/base/sha256.h"
#include "lib/wire/caller.h"

namespace slipway {

class FakeStore {
 public:
  FakeStore() {
    auto bound = bus.bind_router("127.0.0.1:0", [this](Incoming incoming) { on_message(std::move(incoming)); });
    EXPECT_TRUE(bound);
    socket = *bound;
  }
  StoredFile keep(const std::string& name, const std::string& bytes, std::size_t chunk_size) {
    const std::lock_guard lock(mutex);
    StoredFile file{.name = name, .size_bytes = bytes.size(), .digest = sha256(bytes), .chunks = {}};
    for (std::size_t at = 0; at < bytes.size(); at += chunk_size) {
      const std::string chunk = bytes.substr(at, chunk_size);
      file.chunks.push_back(sha256(chunk));
      chunks[sha256(chunk)] = chunk;
    }
    return file;
  }
  [[nodiscard]] std::string address() const { return "127.0.0.1:" + std::to_string(bus.port(socket)); }
  [[nodiscard]] int read_count() {
    const std::lock_guard lock(mutex);
    return reads;
  }

  std::mutex mutex;  // guards all below but the last two
  std::map<Digest, std::string> chunks;
  std::string uploaded;
  bool closed = false;
  bool refuse_parts = false;
  int refuse_next_parts = 0;  // with "no room", from the one after next on
  int refuse_next_reads = 0;
  int refused = 0;
  int aborts = 0;
  int reads = 0;
  int hold_reads = 0;  // answers are held back until so many are open
  std::vector<Incoming> held;
  std::condition_variable changed;
  Bus bus;
  SocketId socket{};

 private:
  void on_message(Incoming incoming) {
    const std::lock_guard lock(mutex);
    msg::Body answer = msg::Ok{};
    std::vector<Frame> payload;
    auto& body = incoming.message.envelope.body;
    if (std::holds_alternative<msg::OpenUpload>(body)) {
      answer = msg::UploadOpened{UploadId("u")};
    } else if (std::holds_alternative<msg::AbortUpload>(body)) {
      ++aborts;
      changed.notify_all();
    } else if (const auto* part = std::get_if<msg::UploadPart>(&body)) {
      if (refuse_parts) {
        answer = to_message({.code = Code::kUnavailable, .message = "disk full", .path = {}});
      } else if (part->offset_bytes > 0 && refuse_next_parts > 0) {
        --refuse_next_parts;
        ++refused;
        answer = to_message({.code = Code::kOverloaded, .message = "no room", .path = {}});
      } else if ((!part->last || closed) &&
                 part->offset_bytes + incoming.message.payload.at(0).size() <= uploaded.size()) {
        // taken already
      } else if (part->offset_bytes == uploaded.size()) {
        uploaded += incoming.message.payload.at(0).text();
        closed = part->last;
      } else {
        answer = to_message({.code = Code::kInvalidArgument, .message = "a gap", .path = {}});
      }
    } else if (const auto* read = std::get_if<msg::GetChunk>(&body)) {
      ++reads;
      if (refuse_next_reads > 0) {
        --refuse_next_reads;
        answer = to_message({.code = Code::kOverloaded, .message = "no room", .path = {}});
      } else {
        payload.push_back(Frame::copy(chunks.at(read->digest)));
      }
      if (hold_reads > 0) {
        held.push_back(incoming);
        if (static_cast<int>(held.size()) < hold_reads) return;
        hold_reads = 0;
        for (auto at = held.rbegin(); at != held.rend(); ++at) {  // the last one first
          const Digest& digest = std::get<msg::GetChunk>(at->message.envelope.body).digest;
          reply(*at, msg::Ok{}, {Frame::copy(chunks.at(digest))});
        }
        return;
      }
    }
    reply(incoming, std::move(answer), std::move(payload));
  }
  void reply(const Incoming& incoming, msg::Body answer, std::vector<Frame> payload) {
    bus.send(incoming.socket, incoming.peer,
             {.envelope = {.correlation = incoming.message.envelope.correlation,
                           .deadline_ms = 0,
                           .request_id = {},
                           .body = std::move(answer)},
              .payload = std::move(payload)});
  }
};

inline std::string pattern(std::size_t size) {
  std::string text(size, '\0');
  for (std::size_t i = 0; i < size; ++i) text[i] = static_cast<char>(i * 131 + i / 977);
  return text;
}

class TransferTest : public testing::Test {
 protected:
  TransferTest() : registry(bus, store.address()) {
    char name[] = "/tmp/slipway-blob-XXXXXX";
    folder = mkdtemp(name);
  }
  ~TransferTest() override { std::filesystem::remove_all(folder); }

  FakeStore store;
  Bus bus;
  Caller registry;
  std::filesystem::path folder;
};

}  // namespace slipway
