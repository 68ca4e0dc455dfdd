#include "services/gateway/load_rounds.h"

#include <format>
#include <utility>

namespace slipway::gateway {

std::vector<LoadRounds::Question> LoadRounds::begin(RoundId round, const WorkerTable& workers,
                                                    const std::vector<msg::VersionKey>& versions, TimePoint deadline) {
  std::vector<Question> questions;
  Round begun;
  begun.deadline = deadline;
  for (const Peer& peer : workers.serving_peers()) {
    const WorkerTable::Worker& worker = *workers.find(peer);
    for (const msg::VersionKey& version : versions) {
      questions.push_back({.peer = peer, .correlation = next_correlation_++, .version = version});
      open_.emplace(questions.back().correlation, Open{.round = round, .peer = peer, .place = begun.outcomes.size()});
      begun.outcomes.push_back(
          {.inferencer = std::format("{} on {}", worker.id.text(), worker.host), .version = version, .loaded = {}});
    }
  }
  begun.open = questions.size();
  if (questions.empty()) {
    ended_.push_back({.round = round, .outcomes = {}});
  } else {
    rounds_.emplace(round, std::move(begun));
  }
  return questions;
}

LoadRounds::At LoadRounds::settle(At question, Result<void> loaded) {
  const auto round = rounds_.find(question->second.round);
  round->second.outcomes[question->second.place].loaded = std::move(loaded);
  if (--round->second.open == 0) {
    ended_.push_back({.round = round->first, .outcomes = std::move(round->second.outcomes)});
    rounds_.erase(round);
  }
  return open_.erase(question);
}

bool LoadRounds::on_answer(const Peer& peer, std::uint64_t correlation, Result<void> loaded) {
  const auto question = open_.find(correlation);
  if (question == open_.end() || question->second.peer != peer) return false;
  settle(question, std::move(loaded));
  return true;
}

void LoadRounds::on_peer_lost(const Peer& peer) {
  for (auto question = open_.begin(); question != open_.end();) {
    if (question->second.peer != peer) {
      ++question;
    } else {
      question = settle(question, fail(Code::kUnavailable, "the inferencer was lost"));
    }
  }
}

void LoadRounds::on_tick(TimePoint now) {
  for (auto question = open_.begin(); question != open_.end();) {
    if (now < rounds_.at(question->second.round).deadline) {
      ++question;
    } else {
      question = settle(question, fail(Code::kDeadlineExceeded, "it was not loaded in time"));
    }
  }
}

std::vector<LoadRounds::Ended> LoadRounds::take_ended() { return std::exchange(ended_, {}); }

}  // namespace slipway::gateway
